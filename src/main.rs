//! The binary: everything it does is in `longshore::cli`.

/// A turn makes and drops thousands of small texts, on whatever thread it runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    longshore::cli::main()
}
