# syntax=docker/dockerfile:1
# The container images, for who builds with docker, buildah or podman. make images writes images of these names without any
# of these, and the same bytes each time: with fewer packages of Debian's than here, where the last two are a whole Debian.
#
#	docker build --build-arg VERSION=v0.1.0 .                       # static programs, and nothing else
#	docker build --target intercept-iptables .                      # with iptables of both variants
#	docker build --target intercept-debug .                         # with a shell, nft, tcpdump and more
ARG GO=1.26
ARG DEBIAN=trixie

FROM --platform=$BUILDPLATFORM golang:${GO}-${DEBIAN} AS build
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin
WORKDIR /source
COPY . .
ARG TARGETARCH
ARG VERSION=unknown
RUN GOARCH="$TARGETARCH" GOFLAGS=-buildvcs=false make build BIN=/out VERSION="$VERSION"
# Some meshes' init containers are not root, and have these capabilities all the same.
RUN mkdir -p /image/licenses \
	&& cp kube/internal/notices/third_party.txt /image/licenses/THIRD_PARTY \
	&& for program in mesh-init mesh-cni mesh-cni-agent mesh-probe mesh-injector; do cp "/out/$program" /image/; done \
	&& setcap cap_net_admin,cap_net_raw=p /image/mesh-init \
	&& for name in usr/bin/kumactl usr/lib/linkerd/linkerd2-network-validator usr/lib/linkerd/linkerd2-proxy-init \
		usr/local/bin/istio-iptables usr/local/bin/pilot-agent; do \
		mkdir -p "/image/$(dirname "$name")" && ln -s /mesh-init "/image/$name"; done

FROM debian:${DEBIAN}-slim AS intercept-iptables
RUN apt-get update && apt-get install -y --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*
COPY --from=build /image/ /
ENTRYPOINT ["/mesh-init"]

FROM intercept-iptables AS intercept-debug
RUN apt-get update && apt-get install -y --no-install-recommends conntrack curl iproute2 nftables procps tcpdump \
	&& rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["/bin/bash"]

FROM scratch AS intercept
COPY --from=build /image/ /
LABEL org.opencontainers.image.title="Intercept" \
	org.opencontainers.image.source="https://github.com/mesh-intercept/intercept" \
	org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/mesh-init"]
