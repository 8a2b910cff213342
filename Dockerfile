# One image for every part: dispatcher, runner and command line are the same binary.
#
# Dependencies are built from the manifest and the lock file alone, in a layer of their own: a change of the code
# builds the code and nothing else. The back end `kubernetes` is in it: a runner of a cluster usually runs in that cluster.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches \
 && echo 'fn main() {}' | tee src/main.rs > benches/planner.rs \
 && touch src/lib.rs \
 && cargo build --release --locked --features kubernetes --bin longshore
COPY benches benches
COPY src src
# The files may be older than what was built of their stand-ins.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --features kubernetes --bin longshore

FROM debian:bookworm-slim
# A number, so that whoever runs it can see that it is not root.
RUN useradd --system --uid 10001 --create-home longshore && install -d -o longshore /data
COPY --from=build /src/target/release/longshore /usr/local/bin/longshore
USER 10001
# /data is for the table of a dispatcher without NATS and for what a runner must remember: mount a volume there.
EXPOSE 8080
# Of a dispatcher. What runs anything else in this image says what healthy means there, or switches it off.
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 CMD ["longshore", "ready"]
ENTRYPOINT ["longshore"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--data", "/data"]
