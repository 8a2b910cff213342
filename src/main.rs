//! The binary: everything it does is in `longshore::cli`.

fn main() -> std::process::ExitCode {
    longshore::cli::main()
}
