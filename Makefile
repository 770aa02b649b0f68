# raftcask: every task of a developer's day, and the ones CI runs (.ci/run calls these same targets).

VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LINT_VERSION  := v2.13.1
BIN           := bin

# The pinned golangci-lint: the one on PATH when it is exactly that version, otherwise one built into bin/.
LINT = $(shell golangci-lint version --short 2>/dev/null | grep -qx '$(LINT_VERSION:v%=%)' \
         && command -v golangci-lint || echo $(CURDIR)/$(BIN)/golangci-lint-$(LINT_VERSION))

# -buildvcs=false: the version comes from git describe above, and stamping fails in a checkout that belongs to another user.
GOBUILD       := go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

# How long each fuzz target runs, how many crash clones the engine soak takes, how long the chaos soak goes on.
FUZZTIME      ?= 30s
CRASH_CLONES  ?= 10000
CHAOS         ?= 10m

.DEFAULT_GOAL := help
.PHONY: help dev build deps test lint bench bench-embedded bench-merge bench-failover chaos bugs crash fuzz image clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: build ## build, then run a three-node cluster on loopback until Ctrl-C (DEV_FLAGS: its flags)
	exec $(BIN)/raftcask dev $(DEV_FLAGS)

build: ## build bin/raftcask
	$(GOBUILD) -o $(BIN)/raftcask ./cmd/node

deps: ## install the Debian packages that the tests need, where missing
	@.ci/deps

test: deps ## all tests with the race detector (about 10 minutes on 2 cores)
	go test -race -count=1 -timeout 15m ./... # tests/integration runs a binary that the cache of results knows nothing of
	cd bench && go test -race ./...

lint: ## golangci-lint, pinned; installs it when missing
	@test -x "$(LINT)" || { set -e; \
	  echo "installing golangci-lint $(LINT_VERSION) into $(BIN)/"; \
	  GOBIN=$(CURDIR)/$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION); \
	  mv $(BIN)/golangci-lint $(BIN)/golangci-lint-$(LINT_VERSION); }
	$(LINT) run ./...
	go vet -tags faults ./cmd/node ./internal/vfs # files that only the integration tests build
	cd bench && $(LINT) run --config ../.golangci.yml ./...

bench: build deps ## side by side with Redis; writes bench/results/<date>-cluster.md (about 4 minutes)
	cd bench && go run ./cluster -raftcask ../$(BIN)/raftcask

bench-embedded: ## the engine beside other embedded stores; writes bench/results/<date>-embedded.md and plots (about 12 minutes)
	cd bench && go run ./embedded

bench-merge: ## gets, puts and disk space beside merges; writes bench/results/<date>-merge.md (about 10 minutes)
	cd bench && go run ./merge

bench-failover: build ## for how long nobody can write when the leader goes; writes bench/results/<date>-failover.md (about 15 minutes)
	cd bench && go run ./failover -raftcask ../$(BIN)/raftcask

chaos: deps ## break a live cluster for CHAOS (default 10m), then one of containers for a fifth of it; report in bin/chaos/
	RAFTCASK_CHAOS_DURATION=$(CHAOS) RAFTCASK_ARTIFACTS=$(CURDIR)/$(BIN)/chaos \
	  go test -count=1 -v -timeout 0 -run '^TestChaos' ./tests/integration

bugs: ## switch mitigations off one by one, and see the tests notice (BUGS='05 clock': only those; about a quarter of an hour)
	go run ./tests/integration/bugs $(BUGS)

crash: ## the engine's crash soak (CRASH_CLONES clones, default 10000), and every fault in turn
	RAFTCASK_CRASH_CLONES=$(CRASH_CLONES) go test -count=1 -v -timeout 0 -run '^Test(CrashSoak|Metamorphic|EveryOperationFails|EveryWriteMeets)' ./bitcask

fuzz: ## every fuzz target for FUZZTIME (default 30s)
	@set -e; go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | while read -r pkg; do \
	  for target in $$(go test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
	    echo "fuzz $$pkg $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
	  done; \
	done

image: ## the container image raftcask:VERSION, from a static binary
	mkdir -p $(BIN)/image/data
	CGO_ENABLED=0 $(GOBUILD) -o $(BIN)/image/raftcask ./cmd/node
	docker build -t raftcask:$(VERSION) -t raftcask:latest -f deploy/Containerfile $(BIN)/image

clean: ## remove what make built
	rm -rf $(BIN) bench/tmp-*
