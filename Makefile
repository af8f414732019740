# make help lists the targets.

MODULE   := github.com/mesh-intercept/intercept
# The packages of all modules, for development (go.work). What ships is built
# from what each go.mod says, with GOWORK=off.
PACKAGES := ./... ./kube/... ./site/...
# The programs, and how large they may be.
SIZES    := mesh-init:9450000 mesh-cni:7400000 mesh-probe:12500000 mesh-injector:40000000
# What a run hardly spends time in is not inlined: that makes mesh-init half a megabyte smaller, and no slower. HOT is what
# an apply does spend it in. testing/program has the same lists.
PLAIN    := github.com golang.org go.yaml.in crypto encoding fmt log net os reflect regexp syscall text time
HOT      := net/netip encoding/binary $(MODULE)/nft $(MODULE)/internal/nlattr
SMALL    := $(foreach p,$(PLAIN),-gcflags='$(p)/...=-l') $(foreach p,$(HOT),-gcflags='$(p)=')
# What the programs say they are: make build VERSION=v1.2.3, else the last tag and what came after it.
ifndef VERSION
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null)
endif
STAMP    := $(if $(VERSION),-X $(MODULE)/internal/version.stamped=$(VERSION))
IMAGE    ?= localhost/intercept:dev
# Where make build writes.
BIN      ?= bin
FUZZTIME ?= 30s
MINUTES  ?= 10
BENCH    ?= .
BENCHFLAGS ?= -count=6
# A cached result says nothing about the kernel it is read on.
TESTFLAGS ?= $(if $(CI),-count=1)

# Tools have a go.mod of their own, to keep theirs out of the module's.
# Without go.work, with which go takes no -modfile.
TOOL := GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod

# Where Debian has nft and iptables, which a user's PATH may lack.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help build mesh-init size image images packages release released workflows vulnerable compatible demo deps test cni cluster valid kernels gvisor peers injected chart race bench figures plots profile fuzz soak site site-serve site-test lint fmt vet arch golangci prose tidy clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name does; do printf '%-10s %s\n' "$$name" "$$does"; done

SMALLEST := GOWORK=off CGO_ENABLED=0 go build -trimpath -ldflags '-s -w $(STAMP)' $(SMALL)

# Without what gRPC keeps for tracing, which takes three megabytes.
build: ## build bin/mesh-init, bin/mesh-cni, bin/mesh-cni-agent, bin/mesh-probe, bin/mesh-injector and bin/kubectl-intercept, static and stripped
	$(SMALLEST) -o '$(BIN)/' ./cmd/mesh-init ./cmd/mesh-cni
	cd kube && GOWORK=off CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -ldflags '-s -w $(STAMP)' -o '$(abspath $(BIN))/' ./cmd/mesh-cni-agent ./cmd/mesh-probe ./cmd/mesh-injector ./cmd/kubectl-intercept

mesh-init: ## build bin/mesh-init alone
	$(SMALLEST) -o '$(BIN)/' ./cmd/mesh-init

size: build ## fail if a binary has grown over its limit
	@for p in $(SIZES); do \
		size=$$(wc -c < "bin/$${p%%:*}"); \
		echo "bin/$${p%%:*}: $$size bytes of at most $${p#*:}"; \
		[ "$$size" -le "$${p#*:}" ] || exit 1; \
	done

image: build ## write bin/intercept-image.tar, a container image for docker, podman, ctr or kind to load
	go run ./kube/deploy/image -name '$(IMAGE)' -version '$(VERSION)' -o bin/intercept-image.tar $(BIN)

# A release says which commit it is of, whatever GOFLAGS says. The same commit and the same Go make the same bytes.
DIST   ?= dist
ARCHES ?= amd64 arm64
# Further images, with Debian's packages below the programs. Each has those of the ones before it. They take apt and dpkg.
VARIANTS ?= iptables debug
DIRS = $(foreach arch,$(ARCHES),'$(DIST)/bin/linux_$(arch)')
images: ## write dist/images: the container images for ARCHES (amd64 arm64) as OCI indexes, with SBOM and provenance
	@rm -rf '$(DIST)/images' && mkdir -p '$(DIST)/images'
	for arch in $(ARCHES); do GOARCH=$$arch GOFLAGS=-buildvcs=true $(MAKE) --no-print-directory build BIN='$(DIST)/bin/linux_'$$arch || exit 1; done
	go run ./kube/deploy/image -index -name '$(IMAGE)' -version '$(VERSION)' -o '$(DIST)/images/intercept.tar' \
		$(DIRS) > '$(DIST)/images/intercept.digest'
	$(if $(VARIANTS),tools/release/layers '$(DIST)/layers' $(ARCHES))
	name='$(IMAGE)'; below=; for variant in $(VARIANTS); do \
		below="$$below -layer $(DIST)/layers/$$variant"; starts=; [ $$variant != debug ] || starts='-entrypoint /bin/sh'; \
		go run ./kube/deploy/image -index -name "$${name%:*}-$$variant:$${name##*:}" -version '$(VERSION)' $$below $$starts \
			-o '$(DIST)/images/'intercept-$$variant.tar $(DIRS) > '$(DIST)/images/'intercept-$$variant.digest || exit 1; \
	done

# Versions as dpkg and rpm order them: v1.2.3-rc.1 is 1.2.3~rc.1, before 1.2.3; what came after a tag is 1.2.3+4.g0a1b2c3, after
# it. Without a tag it is before all.
AS_PACKAGED := s/^v//; s/-([0-9]+)-g/+\1.g/; s/-dirty$$/+dirty/; s/-/~/g; /^[0-9]+\./!s/^/0.0.0~/
NFPM = $(RELEASE_TOOL) nfpm
packages: ## write dist/packages: mesh-init as .deb and .rpm, for ARCHES
	@mkdir -p '$(DIST)/packages' '$(DIST)/files'
	for arch in $(sort $(ARCHES) $(shell go env GOHOSTARCH)); do \
		GOARCH=$$arch GOFLAGS=-buildvcs=true $(MAKE) --no-print-directory mesh-init BIN='$(DIST)/bin/linux_'$$arch || exit 1; \
	done
	gzip -9nc packaging/mesh-init.8 > '$(DIST)/files/mesh-init.8.gz'
	for shell in bash zsh fish; do '$(DIST)/bin/linux_'$$(go env GOHOSTARCH)/mesh-init completion $$shell > '$(DIST)/files/'$$shell || exit 1; done
	export PACKAGE_VERSION="$$(echo '$(VERSION)' | sed -E '$(AS_PACKAGED)')" PACKAGE_FILES='$(DIST)/files' \
		SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" && \
	for arch in $(ARCHES); do for kind in deb rpm; do \
		PACKAGE_ARCH=$$arch PACKAGE_FROM='$(DIST)/bin/linux_'$$arch $(NFPM) package -f packaging/nfpm.yaml -p $$kind -t '$(DIST)/packages/' || exit 1; \
	done; done

# The systems that have kubectl-intercept, besides Linux.
LAPTOPS ?= darwin/amd64 darwin/arm64 windows/amd64
release: IMAGE := ghcr.io/mesh-intercept/intercept:$(VERSION)
release: images ## write dist/release: archives, packages, the image, SBOMs and their sums, from the last commit
	rm -rf '$(DIST)/packages'
	@$(MAKE) --no-print-directory packages VERSION='$(VERSION)'
	for other in $(LAPTOPS); do mkdir -p '$(DIST)/bin/'$${other%/*}_$${other#*/} && (cd kube && \
		GOOS=$${other%/*} GOARCH=$${other#*/} GOWORK=off CGO_ENABLED=0 go build -buildvcs=true -trimpath -ldflags '-s -w $(STAMP)' \
		-o '$(abspath $(DIST))/bin/'$${other%/*}_$${other#*/}/ ./cmd/kubectl-intercept) || exit 1; done
	tools/release/collect '$(DIST)' '$(VERSION)' '$(ARCHES)' '$(LAPTOPS)'

released: release ## the same, and test it: built again in another folder, run, installed on new machines (root)
	@testing/deps test release
	MESH_TEST_REQUIRE=1 go test -count=1 -timeout 40m $(TESTFLAGS) -tags release ./kube/testing/release
	cd tools/chart && GOWORK=off go test -count=1 -tags release -run '^TestPacked$$' .

RELEASE_TOOL := GOWORK=off go tool -modfile='$(CURDIR)/tools/release/go.mod'
workflows: ## check .github/workflows with actionlint
	$(RELEASE_TOOL) actionlint

vulnerable: ## say which known vulnerabilities the programs and the library reach, and compare modules with their sums
	GOWORK=off go mod verify && cd kube && GOWORK=off go mod verify
	$(RELEASE_TOOL) govulncheck ./...
	cd kube && $(RELEASE_TOOL) govulncheck ./...

compatible: ## compare the library with that of the last tag: fail if a program that compiled would not
	tools/release/compatible

demo: mesh-init ## show interception at work, in namespaces of its own (root)
	go run ./testing/demo -mesh-init bin/mesh-init

deps: ## install the programs that tests run, where they are missing (root)
	@testing/deps test

test: deps vet ## vet, then run all tests; as root the kernel's, too
	go test $(TESTFLAGS) $(PACKAGES)

cni: deps ## run the CNI plugin's tests: by hand, through libcni, under containerd
	go test $(TESTFLAGS) ./cmd/mesh-cni ./internal/cniconf ./internal/cniwire ./podspec ./testing/cni ./kube/testing/containerd

# Into bin/cluster. runc is C in part.
CLUSTER := go build -trimpath -o $(CURDIR)/bin/cluster/

cluster: deps image ## the same under containerd 2, and deploy/ in a Kubernetes cluster of one node, all built from source: ten minutes the first time (root)
	@testing/deps cluster
	cd tools/containerd && export GOWORK=off && CGO_ENABLED=1 $(CLUSTER) -ldflags '-s -w' -tags seccomp,no_btrfs,no_devmapper,no_zfs,no_aufs tool
	cd tools/kubernetes && export GOWORK=off && CGO_ENABLED=0 $(CLUSTER) -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)" . tool
	cd tools/coredns && GOWORK=off CGO_ENABLED=0 $(CLUSTER) -ldflags '-s -w' .
	cd tools/chart && GOWORK=off CGO_ENABLED=0 $(CLUSTER) -ldflags '-s -w' tool
	MESH_TEST_CONTAINERD=$(CURDIR)/bin/cluster go test -count=1 $(TESTFLAGS) ./kube/testing/containerd
	MESH_TEST_COREDNS=$(CURDIR)/bin/cluster/coredns go test -count=1 $(TESTFLAGS) -tags cluster -run CoreDNS ./testing/examples
	MESH_TEST_CONTAINERD=$(CURDIR)/bin/cluster go test -count=1 -timeout 40m $(TESTFLAGS) -tags cluster ./kube/testing/cluster

# Each of FLAGS is of testing/kernels, as in KERNELS="-releases bullseye -packages nft -run TestKilled".
kernels: ## run the tests of what speaks with the kernel on Linux 5.10, 6.1, 6.12 and 7.2, in qemu, and write docs/compatibility.md: hours (root)
	@testing/deps kernels
	go run ./testing/kernels $(KERNELS)

gvisor: deps ## run mesh-init, and traffic through its rules, in gVisor, built from source: four minutes the first time (root)
	cd tools/gvisor && GOWORK=off CGO_ENABLED=0 go build -trimpath -o $(CURDIR)/bin/gvisor/ tool
	MESH_TEST_RUNSC=$(CURDIR)/bin/gvisor/runsc go test -count=1 $(TESTFLAGS) -tags gvisor ./testing/gvisor

# Their programs are not run: what they do is worked out from the rules that they document.
peers: deps ## record again what becomes of flows under other meshes' rules, for testing/peers (root)
	MESH_TEST_UPDATE=1 MESH_TEST_REQUIRE=1 go test -count=1 -run '^TestFates$$' ./testing/peers/...

# Their injectors' own packages, as libraries. What is new is in place when it is whole. Kuma's module is not served by the
# proxy for modules, so its pods are written by hand (testing/e2e/testdata/injected).
injected: ## write again the init containers that Istio's own injector makes, for testing: some ten minutes the first time
	cd tools/injected/istio && GOWORK=off go run . > $(CURDIR)/testing/peers/istio/testdata/injected.new
	mv testing/peers/istio/testdata/injected.new testing/peers/istio/testdata/injected.yaml

valid: ## hold what mesh-init inject writes to Kubernetes' own validation and to Envoy's own types; minutes the first time
	cd tools/inject && GOWORK=off go test $(TESTFLAGS) ./...

# Kubernetes' schemas come with its modules, fifty megabytes the first time.
chart: ## lint deploy/chart, render every profile and hold it to three versions of Kubernetes; MESH_TEST_UPDATE=1 writes deploy/ again
	cd tools/chart && GOWORK=off go test $(TESTFLAGS) ./...

race: deps ## run all tests under the race detector, which takes a C compiler
	@testing/deps race
	CGO_ENABLED=1 go test -race $(TESTFLAGS) $(PACKAGES)

bench: ## run the benchmarks (BENCH, BENCHFLAGS), in benchstat's format
	@go test -run '^$$' -bench '$(BENCH)' -benchmem $(BENCHFLAGS) $(PACKAGES)

# What docs/performance.md shows, and no more, so that it takes minutes. It is in place when it is whole.
FIGURES := docs/img/bench.txt
MEASURE := go test -run '^$$' ./testing/bench -benchtime
figures: ## measure again what docs/performance.md shows, and write its tables and plots: six minutes on a quiet machine (root)
	@{ echo "kernel: $$(uname -r)"; echo "go: $$(go env GOVERSION)"; echo "processors: $$(nproc)"; \
	echo "load: $$(cut -d ' ' -f 1 /proc/loadavg)" && \
	$(MEASURE) 40x -bench '^BenchmarkProcess$$/^(apply|apply-again|remove|explain|render|doctor)$$|^BenchmarkExclusions$$/.*/^n=(0|100|1000|5000)$$' && \
	$(MEASURE) 8x -bench '^BenchmarkExclusions$$/.*/^n=50000$$' && \
	go test -run '^$$' ./testing/cni -benchtime 40x -bench '^BenchmarkAdd$$/^(meshed|other)$$' && \
	$(MEASURE) 30x -bench '^BenchmarkLists$$/.*/-5000$$' && \
	$(MEASURE) 8x -bench '^BenchmarkLists$$/^apply$$/-50000$$' && \
	$(MEASURE) 30x -bench '^BenchmarkLongListsIPTables$$/.*/^nft$$' && \
	$(MEASURE) 1500x -bench '^BenchmarkNewConnection(IPTables)?$$' && \
	$(MEASURE) 3s -bench '^Benchmark(BesideDNS|Backstop)$$/^nft$$/^IPv4$$/^(udp|captured|proxy|excluded)$$|^BenchmarkTProxy$$/^nft$$/^IPv4$$' && \
	$(MEASURE) 8x -bench '^BenchmarkAtOnce$$'; } > $(FIGURES).new
	@mv $(FIGURES).new $(FIGURES)
	@$(MAKE) --no-print-directory plots

plots: ## write the tables of docs/performance.md and its plots in docs/img, of the figures in docs/img
	cd tools/plots && GOWORK=off go run . -docs $(CURDIR)/docs && GOWORK=off go test $(TESTFLAGS) .

# PROFILEFLAGS are those of testing/profile, as in PROFILEFLAGS="-again -config mesh.yaml".
profile: ## write CPU, heap and trace profiles of an apply into bin/profile, and say how to look at them (root)
	go run ./testing/profile $(PROFILEFLAGS)

# KEEP is what takes the inputs that reach more code into testdata. Empty: nothing does.
KEEP := ./testing/corpus
fuzz: ## run every fuzz target for FUZZTIME (30s, or 1000x for a count), and keep in testdata what reaches more
	@go test -list '^Fuzz' $(PACKAGES) >/dev/null
	@go test -list '^Fuzz' $(PACKAGES) | awk '/^Fuzz/ { names[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, names[i]; n = 0 }' | \
	while read -r package name; do \
		echo "$$package $$name"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null && \
		$(if $(KEEP),go run $(KEEP) "$$package" "$$name",true) || exit 1; \
	done

soak: deps ## MINUTES (10) of writers, traffic, kills and faults: make soak MINUTES=1 SOAKFLAGS=-soak.writers=4 (root)
	MESH_TEST_REQUIRE=1 go test -count=1 -timeout 0 ./kube/testing/soak -v -soak.for $(MINUTES)m $(SOAKFLAGS)

# The site says of which commit it is, and is the same for the same one.
BASE     ?= /
SITE_REF  = $(shell git describe --tags --exact-match 2>/dev/null || git rev-parse HEAD 2>/dev/null || echo main)
WASM      = $(abspath $(DIST))/wasm/intercept.wasm
GENERATE  = GOWORK=off go run -C site . -o '$(abspath $(DIST))/site' -base '$(BASE)'
site: ## make the documentation of this version, and the playground, as a site in dist/site
	rm -rf '$(DIST)/site'
	@GOWORK=off GOOS=js GOARCH=wasm CGO_ENABLED=0 go build -C site -trimpath -ldflags '-s -w $(STAMP)' $(SMALL) -o '$(WASM)' ./wasm
	$(GENERATE) -C '$(CURDIR)' -version '$(VERSION)' -ref '$(SITE_REF)' -wasm '$(WASM)' -wasm-exec "$$(go env GOROOT)/lib/wasm/wasm_exec.js"

site-serve: site ## the same, and show it at http://127.0.0.1:8080
	$(GENERATE) -serve 127.0.0.1:8080

# At another path than the root, as on a host of many sites: links have to be relative.
site-test: BASE := /intercept/
site-test: site ## the same, and open every page in Debian's chromium and Firefox, which are installed where they are missing: minutes (root)
	@testing/deps site
	MESH_TEST_REQUIRE=1 GOWORK=off go test -C site -count=1 -timeout 30m $(TESTFLAGS) -tags browser ./browser

lint: fmt vet arch golangci ## check format, go vet, the imports and golangci-lint

fmt:
	@files=$$(gofmt -l .) && if [ -n "$$files" ]; then echo "not formatted, run gofmt -w:" $$files >&2; exit 1; fi

vet:
	go vet $(PACKAGES)
	go vet -tags cluster ./kube/testing/cluster ./testing/examples
	go vet -tags gvisor ./testing/gvisor
	go vet -tags release ./kube/testing/release
	go vet -tags browser ./site/browser

# The systems that people write webhooks on, which is where the library has to build; and browsers, for the playground.
OTHERS := darwin/amd64 darwin/arm64 windows/amd64 js/wasm

# What golangci-lint's depguard cannot see: indirect imports, other systems.
arch: export GOWORK := off
arch:
	@bad=$$(go list -deps -f '{{if not .Standard}}{{.ImportPath}}{{end}}' . ./ruleset | grep -vE '^$(MODULE)(/ruleset|/internal/strict)?$$'); \
	if [ -n "$$bad" ]; then echo "the root package and ruleset import the standard library alone, but it needs:" $$bad >&2; exit 1; fi
	@bad=$$(go list -deps ./cmd/mesh-init | grep -E '^(net/http|html/template|testing)$$|^(k8s\.io|$(MODULE)/testing)/'); \
	if [ -n "$$bad" ]; then echo "mesh-init has no room for" $$bad >&2; exit 1; fi
	@program=$$(mktemp) && trap 'rm -f "$$program"' EXIT && CGO_ENABLED=0 go build -o "$$program" ./cmd/mesh-init && \
	if go tool nm "$$program" | grep -qF 'text/template.(*state)'; then \
		echo "mesh-init executes a template, which costs a megabyte: no method can be left out then" >&2; exit 1; fi
	@bad=$$(go list -deps ./cmd/mesh-cni | grep -E '^(net/http|text/template|html/template|testing)$$|^(k8s\.io|google\.golang\.org|github\.com/prometheus|go\.yaml\.in|$(MODULE)/testing)(/|$$)'); \
	if [ -n "$$bad" ]; then echo "mesh-cni has no room for" $$bad >&2; exit 1; fi
	@for other in $(OTHERS); do \
		export GOOS=$${other%/*} GOARCH=$${other#*/} CGO_ENABLED=0; \
		echo "GOOS=$$GOOS GOARCH=$$GOARCH go build ./... and go vet ./..."; \
		go build ./... && go vet ./... || exit 1; \
	done
	cd site && GOOS=js GOARCH=wasm go vet ./answer ./wasm

# The first time it is built from source, which takes minutes.
golangci:
	$(TOOL) golangci-lint run
	cd kube && $(TOOL) golangci-lint run
	cd site && $(TOOL) golangci-lint run

# Tests misspell words on purpose. testing/words.txt has what only looks so. Identifiers are no words.
PROSE := '*.md' '*.go' '*.yaml' '*.sh' Makefile .ci packaging testing/deps testing/fresh/run ':!*_test.go' ':!*/testdata/*'
prose: ## check the spelling of pages, comments and manifests
	@testing/deps prose
	@files=$$(git -c safe.directory='*' ls-files -- $(PROSE)) && echo "$$files" | xargs codespell -I testing/words.txt --ignore-regex '\b\w*[a-z][A-Z]\w*\b'

tidy: ## fail if a go.mod or go.sum is not as go mod tidy leaves them
	GOWORK=off go mod tidy -diff
	cd kube && GOWORK=off go mod tidy -diff
	cd site && GOWORK=off go mod tidy -diff

clean: ## remove what make built
	rm -rf bin '$(DIST)/site' '$(DIST)/wasm'
