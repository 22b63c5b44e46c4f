# host-shim as one static file in an otherwise empty image. Builds with BuildKit and with the classic builder.
# Both base images are arguments: RUST_IMAGE needs cargo and a C compiler, RUNTIME_IMAGE needs nothing at all
# (busybox, for one, gives a shell to look around with). Name them by digest where the image must be the same again:
# --build-arg RUST_IMAGE=rust@sha256:...
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=scratch

FROM ${RUST_IMAGE} AS workspace
WORKDIR /workspace
COPY . .
RUN scripts/image-build split

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# Dependencies first: this layer is built again only when a manifest or the lock file changes.
COPY scripts/image-build scripts/
COPY --from=workspace /manifests .
RUN scripts/image-build build
COPY --from=workspace /sources .
RUN scripts/image-build build && cp target/*/release/host-shim /host-shim

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="Paddock" \
      org.opencontainers.image.description="The AI service between clients and a herd of Ollama servers" \
      org.opencontainers.image.source="https://github.com/paddock-ai/paddock" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /host-shim /host-shim
# No user of the image's own is needed: the binary writes no file.
USER 65532:65532
# In a container nobody comes from loopback.
ENV LISTEN=0.0.0.0:8000
EXPOSE 8000
# glibc would keep the memory of large bodies once they are gone, up to twice a container's limit.
ENV MALLOC_MMAP_THRESHOLD_=131072
# The signal that drains open requests.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/host-shim", "healthcheck"]
ENTRYPOINT ["/host-shim"]
