# syntax=docker/dockerfile:1
#
# One image for each service, by target:
#
#   docker build --target ingest-api        -t warren/ingest-api        .
#   docker build --target store-worker      -t warren/store-worker      .
#   docker build --target query-api         -t warren/query-api         .
#   docker build --target severity-consumer -t warren/severity-consumer .
#   docker build --target warren            -t warren/warren            .
#
# The services share one build: dependencies are compiled in a layer of their own, which a change of the sources
# leaves alone.

FROM rust:1.95-bookworm AS chef
RUN cargo install cargo-chef --locked --version 0.1.78
WORKDIR /build

# Reduces the workspace to what decides about its dependencies.
FROM chef AS planner
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=planner /build/recipe.json recipe.json
# The same profile, packages and working directory as below, or the layer would be of no use.
RUN cargo chef cook --release --locked --recipe-path recipe.json \
    --package warren-ingest-api --package warren-store-worker --package warren-query-api \
    --package warren-severity-consumer --package warren
COPY Cargo.toml Cargo.lock ./
COPY crates crates
RUN cargo build --release --locked \
    --package warren-ingest-api --package warren-store-worker --package warren-query-api \
    --package warren-severity-consumer --package warren \
 && mkdir /out \
 && cp target/release/ingest-api target/release/store-worker target/release/query-api \
    target/release/severity-consumer target/release/warren /out/

# What the services need at run time: libc, the authorities that TLS trusts, and the licences they come under. Their
# checks of health ask whether they are alive, because many an orchestrator restarts what is unhealthy, and that brings
# back no broker that is away; who wants to know whether one is ready asks `healthcheck` without `--live`.
FROM debian:bookworm-slim AS runtime
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 warren \
 && useradd --uid 65532 --gid 65532 --no-create-home --shell /usr/sbin/nologin warren
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/warren/
# A container cannot see where its port is published. One name that is listed has all others refused to those who read, as
# on the loopback (docs/operations.md, "Who may reach it").
ENV WARREN_HTTP__LISTEN=0.0.0.0:8080 \
    WARREN_HTTP__HOSTS=localhost \
    WARREN_TELEMETRY__FORMAT=json
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM

FROM runtime AS ingest-api
LABEL org.opencontainers.image.title="Warren ingest-api" \
      org.opencontainers.image.description="Takes messages in over HTTP and hands them to RabbitMQ" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/ingest-api /usr/local/bin/ingest-api
USER 0:0
# For a spool, if one is asked for: WARREN_SPOOL__PATH=/var/lib/warren-spool, and a volume there.
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/warren-spool
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=6 CMD ["ingest-api", "healthcheck", "--live"]
ENTRYPOINT ["ingest-api"]

FROM runtime AS store-worker
LABEL org.opencontainers.image.title="Warren store-worker" \
      org.opencontainers.image.description="Gets messages from RabbitMQ into PostgreSQL, each exactly once" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/store-worker /usr/local/bin/store-worker
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=6 CMD ["store-worker", "healthcheck", "--live"]
ENTRYPOINT ["store-worker"]

FROM runtime AS query-api
LABEL org.opencontainers.image.title="Warren query-api" \
      org.opencontainers.image.description="Finds stored messages, shows what is published, and serves the console" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/query-api /usr/local/bin/query-api
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=6 CMD ["query-api", "healthcheck", "--live"]
ENTRYPOINT ["query-api"]

FROM runtime AS severity-consumer
LABEL org.opencontainers.image.title="Warren severity-consumer" \
      org.opencontainers.image.description="Counts the messages of one consumer group by severity, each once" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/severity-consumer /usr/local/bin/severity-consumer
USER 0:0
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/warren-tally
USER 65532:65532
ENV WARREN_TALLY__PATH=/var/lib/warren-tally
VOLUME /var/lib/warren-tally
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=6 CMD ["severity-consumer", "healthcheck", "--live"]
ENTRYPOINT ["severity-consumer"]
# Which group to count for has to be said: docker run warren/severity-consumer --group error

FROM runtime AS warren
LABEL org.opencontainers.image.title="Warren" \
      org.opencontainers.image.description="The whole of Warren in one process, over SQLite" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/warren /usr/local/bin/warren
USER 0:0
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/warren
USER 65532:65532
ENV WARREN_EMBEDDED__PATH=/var/lib/warren
VOLUME /var/lib/warren
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=6 CMD ["warren", "healthcheck", "--live"]
ENTRYPOINT ["warren"]
