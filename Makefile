# Each target brings what it needs: on a fresh Debian machine with cargo and root, any of them may come first.
.DEFAULT_GOAL := build
.PHONY: setup build demo test lint bench

setup:
	scripts/setup

build: setup
	cargo build --release --locked --workspace

demo: build
	scripts/demo

test: setup
	scripts/test

lint: setup
	scripts/lint

bench: build
	scripts/bench
