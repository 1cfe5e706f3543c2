#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# usage: test_subproject.sh SOURCE
#
# A meson project that has us in subprojects/vdisk finds dependency('vdisk'), and nothing but the library is built:
# no tools, no tests, and cmocka is not asked for; its program includes <vdisk.h> and runs, shared and static.
set -eu
source=$1
for program in cc meson ninja; do
    command -v $program >/dev/null || { echo "skipped: there is no $program"; exit 77; }
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

mkdir -p "$tmp/parent/subprojects/vdisk"
cd "$source"
folders=$(sed -n "s/^ *subdir('\([a-z0-9]*\)').*/\1/p" meson.build)
cp -r LICENSE README.md meson.build meson_options.txt include $folders \
    "$tmp/parent/subprojects/vdisk"
cd "$tmp/parent"
awk '/^```/ { on = $0 == "```c"; next } on' "$source/README.md" >main.c
# Ours have names that the library has inside; error.h must be glibc's, not a header of engine/.
cat >own.c <<'END'
#include <error.h>
#include <vdisk-lab.h>
int err_set(void);
int err_set(void) { error(0, 0, "%s", vdisk_version()); return VDISK_LAB_DISKS; }
END
cat >meson.build <<'END'
project('parent', 'c', default_options: ['warning_level=3', 'werror=true', 'c_std=c11'])
executable('example', 'main.c', 'own.c', dependencies: dependency('vdisk', version: '>=0.1'))
END
printf '%4096s' x >disk

# build LIBRARY [OTHER]: anew, but what another build has compiled of the same sources with the same command (ninja
# knows) is not compiled again.
build() {
    meson setup "$1" -Ddefault_library="$1" >"$1.log" 2>&1 || { tail -n 20 "$1.log"; fail "$1: meson setup"; }
    ! grep -i cmocka "$1.log" || fail "$1: asks for cmocka"
    if [ $# = 2 ]; then
        (cd "$2" && find subprojects -name '*.c.o' | tar -cf - -T - .ninja_log .ninja_deps) | tar -xf - -C "$1"
    fi
    ninja -C "$1" >"$1.ninja" 2>&1 || { tail -n 20 "$1.ninja"; fail "$1: does not build"; }
    [ -z "$(find "$1" -name 'vdisk-io' -type f -o -name 'test_*' -o -name 'vdisk_*.3')" ] ||
        fail "$1: builds tools, tests or documents"
    got=$("$1/example" disk)
    [ "$got" = "request 42: 0" ] || fail "$1: the example says '$got'"
}

build shared
build static shared
# Under another name, and with the names that parents may know already.
mv subprojects/vdisk subprojects/vdisk-io
printf '[wrap-file]\n[provide]\nvdisk = vdisk_dep\n' >subprojects/vdisk-io.wrap
rm -r shared
build shared
mv shared shared.old
rm subprojects/vdisk-io.wrap
sed -i "s/dependency('vdisk'.*)/dependency('vdisk', fallback: ['vdisk-io', 'vdisk_dep']))/" meson.build
build shared shared.old
! ldd static/example | grep libvdisk || fail "static: needs the shared library"
echo "a parent project builds and runs with both libraries"
