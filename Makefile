# SPDX-License-Identifier: Apache-2.0

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO       ?= go
TOOL     := $(GO) tool -modfile=tools.mod
FUZZTIME ?= 2s
BENCH    ?= .
LDFLAGS  := -s -w
IMAGE    ?= viaduct-net/viaduct:latest

MAINS := $(wildcard $(foreach c,control dataplane cni perf tools,$(c)/cmd/*))
BPF   := $(shell find xdpprog perf -name '*.[ch]' -not -name 'vmlinux.h' 2>/dev/null)

# What Debian calls the tools that Go does not bring, and a file of each to know it by.
PACKAGES := clang:/usr/bin/clang llvm:/usr/bin/llvm-strip clang-format:/usr/bin/clang-format \
	libbpf-dev:/usr/include/bpf/bpf_helpers.h libc6-dev:/usr/include/assert.h \
	linux-libc-dev:/usr/include/linux/bpf.h gcc:/usr/bin/gcc \
	tshark:/usr/bin/tshark etcd-server:/usr/bin/etcd etcd-client:/usr/bin/etcdctl \
	containernetworking-plugins:/usr/lib/cni/bridge iptables:/usr/sbin/iptables nftables:/usr/sbin/nft \
	containerd:/usr/bin/containerd runc:/usr/sbin/runc

# Packages that hold frames, whose owners viaduct_debug counts.
RINGS := ./dataplane/xsk/... ./dataplane/worker/... ./dataplane/handover/...

# Packages whose tests need neither devices nor a CPU of their own: some of them run beside each other.
TOGETHER = $(shell $(GO) list ./control/... ./dataplane/... | \
	grep -vE '/(cmd|control/daemon|dataplane/(daemon|forwarder|handover|host|worker|xsk))(/|$$)')
ALONE    = $(filter-out $(TOGETHER),$(shell $(GO) list ./...))

# Modules of their own, so that what only they need stays out of everybody's go.mod.
MODULES := control/source/kubetest tools/image internal/policytest/cyclonus

.PHONY: help build image generate check lint vet test test-go bench demo fuzz clean install-tools

help: ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## static binaries into bin/
	@mkdir -p bin
	@for main in $(MAINS); do \
		CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -ldflags '$(LDFLAGS)' -o bin/ ./$$main; \
		echo "bin/$${main##*/}"; \
	done

# The builder runs here, whatever GOARCH the programs are for.
image: build ## bin/viaduct-image.tar: the programs on an empty base, for ctr images import and docker load
	@cd tools/image && GOARCH= $(GO) run . -out ../../bin/viaduct-image.tar -tag $(IMAGE) \
		-version "$$(git describe --always --dirty)" -revision "$$(git rev-parse HEAD)" \
		-created "$$(git log -1 --format=%ct)" $(foreach main,$(MAINS),../../bin/$(notdir $(main)))
	@echo "bin/viaduct-image.tar ($(IMAGE))"

generate: install-tools ## eBPF objects, their Go, and the protocols' Go
	@$(TOOL) buf generate --exclude-path control/api/attach
	@$(TOOL) buf generate --path control/api/attach --template buf.gen.ttrpc.yaml
	@$(GO) generate ./xdpprog/... ./perf/...

# Generating must change nothing. Files are compared with themselves, so that a dirty tree can be checked too.
GENERATED = git ls-files -co --exclude-standard -- '*.pb.go' '*_bpfel.go' '*_bpfeb.go' '*_bpfel.o' '*_bpfeb.o' | sort

check: install-tools ## what is generated is what its sources give
	@before=$$($(GENERATED) | xargs -r sha256sum); \
	$(MAKE) --no-print-directory generate; \
	after=$$($(GENERATED) | xargs -r sha256sum); \
	diff <(echo "$$before") <(echo "$$after") || { \
		echo "generated files were not up to date; they are by this run ($$(clang --version | head -n1))"; exit 1; }
	@echo "generated files: up to date"

lint: install-tools ## golangci-lint, buf lint, clang-format
	@$(TOOL) golangci-lint run ./...
	@$(TOOL) buf lint
	@$(if $(BPF),clang-format --dry-run -Werror $(BPF))

vet: ## go vet, with each build tag
	@$(GO) vet ./...
	@$(GO) vet -tags viaduct_debug ./dataplane/...

test: install-tools vet lint check build fuzz test-go ## everything; the last line counts

# One stream of all passes, for one count. Those that share the kernel's devices run one at a time.
test-go: ## go test with the race detector, and with viaduct_debug
	@$(GO) build -o bin/.count ./internal/testenv/cmd/count
	@{ status=0; \
	$(GO) test -json -race -timeout 10m -p 2 $(TOGETHER) || status=1; \
	$(GO) test -json -race -timeout 10m -p 1 $(ALONE) || status=1; \
	$(GO) test -json -tags viaduct_debug -timeout 10m -p 1 $(RINGS) || status=1; \
	for module in $(MODULES); do (cd $$module && $(GO) test -json -timeout 15m ./...) || status=1; done; \
	exit $$status; } | bin/.count

# When -fuzztime ends, Go's coordinator may take its own deadline for a failure (go.dev/issue/75804).
# It says that alone then; a failing input, a hang or a crash of a target reads otherwise.
DEADLINE := '\n--- FAIL: \w+ \([\d.]+s\)\n    context deadline exceeded\nFAIL\n'

fuzz: ## each fuzz target for FUZZTIME (2s)
	@mkdir -p bin; grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|/[^/]*:func | |' | sort -u | \
	while read -r dir name; do \
		echo "fuzz $$dir $$name"; \
		$(GO) test "$$dir" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) > bin/.fuzz 2>&1 < /dev/null || \
			grep -Pzq -- $(DEADLINE) bin/.fuzz || { cat bin/.fuzz; exit 1; }; \
	done

bench: ## Go benchmarks that match BENCH
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

demo: build ## three namespaces, real traffic, a few seconds
	@bin/viaduct demo

clean: ## what was built
	@rm -rf bin

install-tools: ## what is missing of Debian's packages
	@missing=; for p in $(PACKAGES); do [ -e "$${p#*:}" ] || missing="$$missing $${p%%:*}"; done; \
	[ -z "$$missing" ] && exit 0; \
	echo "installing$$missing"; \
	if [ "$$(id -u)" != 0 ]; then echo "not root: please install them by hand"; exit 1; fi; \
	apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing
