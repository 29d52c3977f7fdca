# The same commands as in .ci/run, one kind at a time.

# What to run before each commit.
check:
    cargo fmt --all --check && cargo clippy --locked --all-targets --all-features -- -D warnings && cargo test --features cli

# The protocol in every interleaving, then a death at every store and system call, then processes killed at work.
prove:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --locked --release --lib && RUSTFLAGS="--cfg crash_points" CARGO_TARGET_DIR=target/crash cargo test --locked --release --test crash_points && cargo run --locked --release --features cli -- torture --seconds 60

# One target for as long as you like: `just fuzz operations 60`.
fuzz target="operations" seconds="30":
    mkdir -p fuzz/corpus/{{target}} && cargo +nightly fuzz run --no-trace-compares {{target}} fuzz/corpus/{{target}} fuzz/seeds/{{target}} -- -timeout=25 -rss_limit_mb=1024 -max_len=600 -len_control=0 -max_total_time={{seconds}}

# What each primitive costs, beside a bare compare-exchange pair.
bench:
    cargo bench --features cli

# Side by side with what people use: eight minutes, and writes docs/benchmarks.
peers:
    cargo run --release --manifest-path benches/peers/Cargo.toml
