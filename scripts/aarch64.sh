#!/usr/bin/env bash
# Compiles the program for 64-bit Arm Linux on another machine and runs the kernels' tests there under an emulator.
#
#   scripts/aarch64.sh              the program and the tests
#   scripts/aarch64.sh build        the program alone
#   scripts/aarch64.sh test ARG...  `cargo test --release` for Arm with these arguments, in place of `-p topspin-kernels`
#
# Needs Rust's library for the target (`rustup target add aarch64-unknown-linux-gnu`), a C compiler for it (Debian's
# gcc-aarch64-linux-gnu), and for tests the emulator (qemu-user-static or qemu-user). Variables of cargo that are set
# already are left as they are. Emulated times say nothing about an Arm processor.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=aarch64-unknown-linux-gnu
cc=aarch64-linux-gnu-gcc

fail() {
    echo "aarch64.sh: $1" >&2
    exit 2
}

what="${1:-all}"
case "$what" in
    all | build) [[ $# -le 1 ]] || fail "\`$what\` takes no arguments" ;;
    test) shift ;;
    *) fail "\`$what\` is neither \`build\` nor \`test\`" ;;
esac

library="$("${RUSTC:-rustc}" --print target-libdir --target "$target")" || fail "\`${RUSTC:-rustc}\` does not run"
[[ -d "$library" ]] || fail "Rust's library for the target is missing; add it with \`rustup target add $target\`"

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER:-$cc}"
export CC_aarch64_unknown_linux_gnu="${CC_aarch64_unknown_linux_gnu:-$cc}"
for program in "$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER" "$CC_aarch64_unknown_linux_gnu"; do
    command -v "$program" >/dev/null || fail "\`$program\` is missing; Debian has $cc in the package gcc-aarch64-linux-gnu"
done

if [[ "$what" != build && -z "${CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER:-}" ]]; then
    runner="$(command -v qemu-aarch64-static || command -v qemu-aarch64)" ||
        fail 'the emulator `qemu-aarch64` is missing; Debian has it in the package qemu-user-static'
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$runner"
    # Where the emulated program finds its C library: the folder above the `lib` that the linker takes it from.
    libc="$("$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER" -print-file-name=libc.so.6)"
    export QEMU_LD_PREFIX="${QEMU_LD_PREFIX:-$(realpath "$(dirname "$libc")/..")}"
fi

run() { "${CARGO:-cargo}" "$1" --release --locked --target "$target" "${@:2}"; }

case "$what" in
    all)
        run build -p topspin
        run test -p topspin-kernels
        ;;
    build) run build -p topspin ;;
    test) run test "$@" ;;
esac
