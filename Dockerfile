# Not built in the project's own checks: they reach no image registry.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --create-home longshore && mkdir /data && chown longshore /data
COPY --from=build /src/target/release/longshore /usr/local/bin/longshore
USER longshore
EXPOSE 8080
ENTRYPOINT ["longshore"]
CMD ["serve", "--listen", "0.0.0.0:8080", "--data", "/data"]
