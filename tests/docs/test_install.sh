#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# usage: test_install.sh SOURCE BUILD
#
# What `meson install` puts in place is whole: the example in README.md builds against it, shared and static, and
# runs, also in a program that has functions of its own by the names of our internal ones; each public function has
# a manual page. (Which names the libraries show: tests/lint/symbols.py.)
set -eu
source=$1
build=$2
for program in cc pkg-config; do
    command -v $program >/dev/null || { echo "skipped: there is no $program"; exit 77; }
done
case $(meson introspect "$build" --buildoptions 2>/dev/null) in
*'"name": "b_sanitize", "value": "none"'*) ;;
*) echo "skipped: what a sanitizer build installs needs the sanitizer"; exit 77 ;;
esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

meson install -C "$build" --no-rebuild --quiet --destdir "$tmp/root"
pc=$(find "$tmp/root" -name vdisk.pc)
[ -n "$pc" ] || fail "no vdisk.pc is installed"
libdir=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH="${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$tmp/root"
for name in libvdisk.so libvdisk.so.0 libvdisk.a; do
    [ -e "$libdir/$name" ] || fail "$name is not installed"
done
for name in vdisk-io completions/vdisk-io vdisk.h vdisk-space.h vdisk-image.h vdisk-bulk.h vdisk-backend.h \
    vdisk-lab.h vdisk-io.1 libvdisk.3 libvdisk-space.3 libvdisk-image.3 libvdisk-bulk.3 libvdisk-backend.3 \
    libvdisk-lab.3 LICENSE README.md example.c; do
    [ -n "$(find "$tmp/root" -path "*/$name")" ] || fail "$name is not installed"
done

man=$(dirname "$(find "$tmp/root" -name libvdisk.3)")
for name in $(grep -ow 'vdisk_[a-z0-9_]*' "$source/engine/libvdisk.map"); do
    page=$(sed -n 's|^.so man3/||p' "$man/$name.3")
    grep -q "$name(" "$man/$page" || fail "man 3 $name does not lead to a page that has it"
done

cp "$(find "$tmp/root" -name example.c)" "$tmp"
printf 'int err_set(void);\nint err_set(void) { return 0; }\nint queue_sleep;\n' >"$tmp/own.c"
cc -Wall -Wextra -Werror -o "$tmp/shared" "$tmp/example.c" "$tmp/own.c" $(pkg-config --cflags --libs vdisk)
cc -Wall -Wextra -Werror -o "$tmp/static" "$tmp/example.c" "$tmp/own.c" $(pkg-config --cflags vdisk) \
    "$libdir/libvdisk.a" $(pkg-config --static --libs-only-l --libs-only-other vdisk | sed 's/-lvdisk//')
printf '%4096s' x >"$tmp/disk"
want="request 42: 0"
got=$(LD_LIBRARY_PATH=$libdir "$tmp/shared" "$tmp/disk")
[ "$got" = "$want" ] || fail "the shared example says '$got'"
got=$("$tmp/static" "$tmp/disk")
[ "$got" = "$want" ] || fail "the static example says '$got'"

sed -n '/^```c$/,/^```$/p' "$source/docs/crash-testing.md" | sed '1d;$d' >"$tmp/crashes.c"
cc -Wall -Wextra -Werror -o "$tmp/crashes" "$tmp/crashes.c" $(pkg-config --cflags --libs vdisk)
got=$(LD_LIBRARY_PATH=$libdir "$tmp/crashes")
[ "$got" = "all is there after the power cuts" ] || fail "the example in docs/crash-testing.md says '$got'"

sed -n '/^```c$/,/^```$/p' "$source/docs/own-storage.md" | sed '1d;$d' >"$tmp/storage.c"
cc -Wall -Wextra -Werror -o "$tmp/storage" "$tmp/storage.c" $(pkg-config --cflags --libs vdisk)
got=$(LD_LIBRARY_PATH=$libdir "$tmp/storage")
[ "$got" = "hello, from QFI" ] || fail "the example in docs/own-storage.md says '$got'"

package=$(find "$tmp/root" -path '*/vdisk/__init__.py')
if [ -n "$package" ] && command -v python3 >/dev/null; then
    sed -n '/^```python$/,/^```$/p' "$source/README.md" | sed '1d;$d' >"$tmp/example.py"
    export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="${package%/vdisk/*}"
    got=$(cd "$tmp" && LD_LIBRARY_PATH=$libdir python3 example.py)
    case $got in
    "b'hello' [Extent(offset=0, length=65536, data=True"*) ;;
    *) fail "the example for Python says '$got'" ;;
    esac
fi

echo "the examples run with both libraries, each function has a manual page"
