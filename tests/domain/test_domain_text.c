/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is on disk in a storage domain: Vdsm's text comes back byte for byte, and nothing else is taken. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/arith.h"
#include "tools/domain/text.h"

#define HEAD5 "CAP=67108864\nCTIME=1550522547\n"
#define HEAD4 "CTIME=1550522547\n"
#define MIDDLE                                                                                          \
    "DESCRIPTION={\"DiskAlias\":\"d\",\"DiskDescription\":\"\"}\nDISKTYPE=DATA\n"                       \
    "DOMAIN=b8c7b24a-d2d1-43b5-a854-e78d07e34a33\nFORMAT=COW\nGEN=7\n"                                  \
    "IMAGE=00000001-0000-4000-8000-000000000001\nLEGALITY=LEGAL\n"
#define PARENT "PUUID=00000011-0000-4000-8000-000000000011\n"
#define TAIL   "TYPE=SPARSE\nVOLTYPE=INTERNAL\nEOF\n"

static const char version_5[] = HEAD5 MIDDLE PARENT "SEQ=2\n" TAIL;
static const char version_4[] = HEAD4 MIDDLE "MTIME=0\n" PARENT "SIZE=131072\n" TAIL;
static const char version_3[] = HEAD4 MIDDLE "MTIME=0\nPOOL_UUID=\n" PARENT "SIZE=131072\n" TAIL;
static const char between[] = HEAD5 MIDDLE "MTIME=0\n" PARENT "SEQ=0\nSIZE=131072\n" TAIL;

static const char domain[] =
    "ALIGNMENT=1048576\nBLOCK_SIZE=512\nCLASS=Data\nDESCRIPTION=domain\nIOOPTIMEOUTSEC=10\nLEASERETRIES=3\n"
    "LEASETIMESEC=60\nLOCKPOLICY=\nLOCKRENEWALINTERVALSEC=5\nPOOL_UUID=2f992176-8b50-4067-b155-3b0d03c0162e\n"
    "REMOTE_PATH=/var/tmp/vdsm-pytest/test_golden_5_0/domain\nROLE=Regular\n"
    "SDUUID=b8c7b24a-d2d1-43b5-a854-e78d07e34a33\nTYPE=LOCALFS\nVERSION=5\n"
    "_SHA_CKSUM=29de2e80410a3d42a451cf6b7aacaeee06a15353\n";

static int parse(const char *text, struct domain_meta *ret, char why[TEXT_WHY])
{
    return text_volume_parse(text, strlen(text), ret, why);
}

/* ---- volumes ------------------------------------------------------------------------------------------- */

static void volumes_come_back(void **state)
{
    static const char *const texts[] = {version_5, version_4, version_3, between};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char why[TEXT_WHY] = "", buf[TEXT_VOLUME_MAX + 1];
        struct domain_meta meta;
        size_t len;
        assert_int_equal(parse(texts[i], &meta, why), 0);
        assert_int_equal(meta.capacity, 64 << 20);
        assert_int_equal(meta.generation, 7);
        assert_int_equal(text_volume_format(&meta, buf, &len), 0);
        assert_string_equal(buf, texts[i]);
        assert_int_equal(len, strlen(texts[i]));
    }
}

static void padded_and_spaced_text_is_read(void **state)
{
    char text[TEXT_VOLUME_MAX] = {0}, why[TEXT_WHY];
    struct domain_meta meta;
    (void)state;

    memcpy(text, version_5, sizeof version_5);
    assert_int_equal(text_volume_parse(text, sizeof text, &meta, why), 0);
    assert_int_equal(meta.sequence, 2);
    assert_int_equal(parse("no pair\n CAP =\t 4096 \r\n" HEAD4 MIDDLE PARENT TAIL "FORMAT=RAW\n", &meta, why), 0);
    assert_int_equal(meta.capacity, 4096);
    assert_int_equal(meta.format, DOMAIN_COW);
    assert_false(meta.has_sequence);
}

static void each_key_is_needed(void **state)
{
    static const char *const keys[] = {"CTIME", "DESCRIPTION", "DISKTYPE", "DOMAIN", "FORMAT", "IMAGE",
                                       "LEGALITY", "PUUID", "TYPE", "VOLTYPE"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        char text[TEXT_VOLUME_MAX + 1], needle[32], why[TEXT_WHY] = "";
        struct domain_meta meta;
        char *at, *end;
        snprintf(text, sizeof text, "\n%s", version_5);
        snprintf(needle, sizeof needle, "\n%s=", keys[i]);
        at = strstr(text, needle);
        assert_non_null(at);
        end = strchr(at + 1, '\n');
        memmove(at, end, strlen(end) + 1);
        assert_int_equal(parse(text, &meta, why), -EBADMSG);
        assert_non_null(strstr(why, keys[i]));
    }
}

/* In whatever order Vdsm of old has written them: by keys they are written again, each once. */
static void unknown_keys_are_kept(void **state)
{
    char buf[TEXT_VOLUME_MAX + 1], old[2 * TEXT_VOLUME_MAX], why[TEXT_WHY] = "";
    struct domain_meta meta;
    size_t len, last = 0;
    (void)state;

    snprintf(old, sizeof old, "VOLTYPEX=\nZZ=1\nPOOL=old\nA=2\nCAPS=3\nPOOL=\nZZ=22\n%s", version_5);
    assert_int_equal(parse(old, &meta, why), 0);
    assert_int_equal(text_volume_format(&meta, buf, &len), 0);
    for (const char *at = buf; strncmp(at, "EOF", 3) != 0; at = strchr(at, '\n') + 1) {
        assert_true(strncmp(buf + last, at, strcspn(at, "=")) <= 0);
        last = (size_t)(at - buf);
    }
    assert_non_null(strstr(buf, "A=2\nCAP="));
    assert_non_null(strstr(buf, "\nCAPS=3\nCTIME="));
    assert_non_null(strstr(buf, "\nPOOL=\nPUUID="));
    assert_non_null(strstr(buf, "\nVOLTYPEX=\nZZ=22\nEOF\n"));
    assert_null(strstr(buf, "ZZ=1\n"));
    assert_int_equal(parse(buf, &meta, why), 0);
    assert_int_equal(text_volume_format(&meta, old, &len), 0);
    assert_string_equal(buf, old);
}

static void wrong_values_are_refused(void **state)
{
    static const char *const lines[] = {
        "CAP=-1", "CAP=9223372036854775808", "CAP=0x10", "CAP=", "CTIME=now", "DISKTYPE=ROOT", "DOMAIN=x",
        "FORMAT=qcow2", "GEN=1000", "GEN=-1", "IMAGE=00000001-0000-4000-8000-00000000000A", "LEGALITY=legal",
        "PUUID=", "SEQ=4294967296", "TYPE=THIN", "VOLTYPE=TOP", "SIZE=99999999999999999999", " EOF=1",
    };
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        char text[2 * TEXT_VOLUME_MAX], why[TEXT_WHY] = "";
        struct domain_meta meta;
        snprintf(text, sizeof text, HEAD5 MIDDLE PARENT "%s\n" TAIL, lines[i]);
        if (parse(text, &meta, why) != -EBADMSG || why[0] == '\0')
            fail_msg("%s is taken", lines[i]);
    }
}

static void what_is_none_is_told(void **state)
{
    char why[TEXT_WHY] = "", text[TEXT_VOLUME_MAX + 2];
    struct domain_meta meta;
    (void)state;

    assert_int_equal(parse("NONE=######\nEOF\n", &meta, why), -ENODATA);
    assert_int_equal(parse("", &meta, why), -EBADMSG);
    memset(text, 'x', sizeof text);
    assert_int_equal(text_volume_parse(text, sizeof text - 1, &meta, why), -EBADMSG);
    assert_int_equal(text_volume_parse("CAP=1\0\nEOF\n", 11, &meta, why), -EBADMSG);
}

static void descriptions_are_cut(void **state)
{
    char why[TEXT_WHY], buf[TEXT_VOLUME_MAX + 1];
    struct domain_meta meta;
    size_t len;
    (void)state;

    assert_int_equal(parse(HEAD5 MIDDLE "PUUID=" DOMAIN_BLANK "\n" TAIL, &meta, why), 0);
    memset(meta.description, 'd', 211);
    meta.description[211] = '\0';
    assert_int_equal(text_volume_format(&meta, buf, &len), 0);
    assert_int_equal(strspn(strstr(buf, "DESCRIPTION=") + 12, "d"), TEXT_DESCRIPTION_MAX);
    for (size_t i = 0; i < 255; i++)
        memcpy(meta.description + 2 * i, "\xc3\xa9", 3); /* 210 of them are too many bytes */
    assert_int_equal(text_volume_format(&meta, buf, &len), -EOVERFLOW);
    memcpy(meta.description, "  a b  ", 8); /* what is written is what is read again */
    assert_int_equal(text_volume_format(&meta, buf, &len), 0);
    assert_non_null(strstr(buf, "\nDESCRIPTION=a b\n"));
    memset(meta.description, 'd', 209);
    memcpy(meta.description + 209, "  d", 4);
    assert_int_equal(text_volume_format(&meta, buf, &len), 0);
    assert_int_equal(strcspn(strstr(buf, "DESCRIPTION=") + 12, "\n"), 209);
    memcpy(meta.description, "   ", 4);
    assert_int_equal(text_volume_format(&meta, buf, &len), 0);
    assert_non_null(strstr(buf, "\nDESCRIPTION=\n"));
    assert_true(text_is_line("caf\xc3\xa9"));
    assert_false(text_is_line("a\nb"));
    assert_false(text_is_line("\xff"));
}

/* ---- domains ------------------------------------------------------------------------------------------- */

static void domains_come_back(void **state)
{
    struct text_domain md;
    char why[TEXT_WHY], *text;
    size_t len;
    (void)state;

    assert_int_equal(text_domain_parse(domain, strlen(domain), &md, why), 0);
    assert_true(md.sealed);
    assert_string_equal(text_domain_get(&md, "TYPE"), "LOCALFS");
    assert_null(text_domain_get(&md, "_SHA_CKSUM"));
    assert_int_equal(text_domain_format(&md, &text, &len), 0);
    assert_string_equal(text, domain);
    free(text);
    text_domain_free(&md);
}

static void a_changed_byte_is_found(void **state)
{
    char text[sizeof domain], why[TEXT_WHY];
    struct text_domain md;
    (void)state;

    for (size_t i = 0; i < sizeof domain - 1; i++) {
        memcpy(text, domain, sizeof text);
        text[i] ^= 1;
        if (text_domain_parse(text, sizeof text - 1, &md, why) < 0)
            continue;
        if (md.sealed && i != sizeof domain - 2) /* of the last line's end nothing is told */
            fail_msg("byte %zu is another, and the checksum is right", i);
        text_domain_free(&md);
    }
}

/* The checksum is of what Vdsm makes of it in ASCII. */
static void other_letters_are_sealed(void **state)
{
    char seal[TEXT_SEAL];
    struct text_domain md = {0};
    (void)state;

    assert_int_equal(text_domain_set(&md, "DESCRIPTION", "b\xc3\xa9 \xf0\x9f\x92\xbe"), 0);
    assert_int_equal(text_domain_set(&md, "CLASS", "Data"), 0);
    assert_int_equal(text_domain_set(&md, "CLASS", "Iso\n"), -EINVAL);
    text_domain_seal(&md, seal);
    assert_string_equal(seal, "6f46d51c6d8901370c980e7bdb657196630ce46d");
    assert_string_equal(md.list[0].key, "CLASS");
    text_domain_free(&md);
}

static void exports_are_known(void **state)
{
    static const char *const yes[] = {"server:/", "a.b:/c/d", "[fe80::1]:/x", "10.0.0.1:/e"};
    static const char *const no[] = {"", "/a:/b", "server:", "server", ":/x", "./a:/b", "dir/a:/b", "[::1]/x:/y"};
    char path[40], source[TEXT_MOUNT], point[TEXT_MOUNT];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        assert_true(text_is_export(yes[i]));
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        assert_false(text_is_export(no[i]));
    assert_true(text_parse_mount("36 25 0:41 / /mnt/a\\040b rw shared:1 - nfs4 server:/x\\134y rw,vers=4.2\n",
                                 source, point));
    assert_string_equal(source, "server:/x\\y");
    assert_string_equal(point, "/mnt/a b");
    assert_false(text_parse_mount("36 25 0:41 / /mnt/a rw - ext4 /dev/sda rw\n", source, point));
    assert_false(text_parse_mount("36 25", source, point));
    assert_int_equal(text_mount_point("s_1:/a/b", path, sizeof path), 0);
    assert_string_equal(path, "/rhev/data-center/mnt/s__1:_a_b");
    assert_int_equal(text_mount_point("server:/a/b/c/of/more", path, sizeof path), -ENAMETOOLONG);
}

static void hosts_are_named(void **state)
{
    unsigned char sector[TEXT_HOST_SIZE] = {0x10, 0x20, 0x21, 0x12};
    char name[TEXT_HOST_NAME];
    (void)state;

    assert_true(text_is_hosts(sector));
    text_host_name(sector, name);
    assert_string_equal(name, "");
    memcpy(sector + 104, "a\nb", 3);
    text_host_name(sector, name);
    assert_string_equal(name, "a?b");
    memset(sector + 104, 'x', 48); /* without an end */
    sector[104 + 48] = 'y';
    text_host_name(sector, name);
    assert_int_equal(strlen(name), 48);
    sector[0] = 0;
    assert_false(text_is_hosts(sector));
    text_host_name(sector, name);
    assert_string_equal(name, "");
    assert_int_equal(text_lease_offset(1, 1 << 20), 101 << 20);
    assert_true(text_lease_offset(TEXT_SLOT_LAST, 8 << 20) == UINT64_C(2047) * (8 << 20));
}

static void uuids_are_judged(void **state)
{
    static const unsigned char random[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    char uuid[DOMAIN_UUID];
    (void)state;

    text_uuid(random, uuid);
    assert_string_equal(uuid, "ffffffff-ffff-4fff-bf00-000000000000");
    assert_true(text_is_uuid(uuid, strlen(uuid)));
    assert_false(text_is_uuid("ffffffff-ffff-4fff-bf00-00000000000", 35));
    assert_false(text_is_uuid("ffffffff-ffff-4fff-bf00-00000000000/", 36));
    assert_false(text_is_uuid("FFFFFFFF-ffff-4fff-bf00-000000000000", 36));
}

/* ---- volume groups ------------------------------------------------------------------------------------- */

static void tags_come_back(void **state)
{
    static const char *const pairs[][2] = {
        {"Data", "Data"},
        {"a,b c", "a&44&b&32&c"},
        {"a&b", "a&38&b"},
        {"A_z+0.9-/=!:#", "A_z+0.9-/=!:#"},
        {"b\xc3\xa9 \xf0\x9f\x92\xbe \xe2\x82\xac", "b&233&&32&&128190&&32&&8364&"},
        {"pv:1,uuid:2,pestart:0", "pv:1&44&uuid:2&44&pestart:0"},
        {"", ""},
    };
    static const char *const bad[] = {"&", "&&", "&a&", "&32", "a&0&", "&1114112&", "&-1&"};
    char tag[64], text[64];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        assert_int_equal(text_tag_encode(pairs[i][0], tag, sizeof tag), 0);
        assert_string_equal(tag, pairs[i][1]);
        assert_int_equal(text_tag_decode(tag, text, sizeof text), 0);
        assert_string_equal(text, pairs[i][0]);
    }
    assert_int_equal(text_tag_encode("a b", tag, 7), 0);
    assert_int_equal(text_tag_encode("a b", tag, 6), -EOVERFLOW);
    assert_int_equal(text_tag_decode("a&32&b", text, 4), 0);
    assert_int_equal(text_tag_decode("a&32&b", text, 3), -EOVERFLOW);
    assert_int_equal(text_tag_encode("\xff", tag, sizeof tag), -EINVAL);
    assert_int_equal(text_tag_encode("\xc3", tag, sizeof tag), -EINVAL);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(text_tag_decode(bad[i], text, sizeof text), -EBADMSG);
}

#define IMAGE  "00000001-0000-4000-8000-000000000001"
#define BELOW  "00000011-0000-4000-8000-000000000011"
#define VOLUME "00000012-0000-4000-8000-000000000012"

static struct text_lv lv_of(const char *name, unsigned version, const char *const *tags)
{
    struct text_lv lv;
    size_t count = 0;

    while (tags[count] != NULL)
        count++;
    text_lv_parse(name, (char *const *)(uintptr_t)tags, count, version, &lv);
    return lv;
}

static void tags_say_what_a_volume_is(void **state)
{
    static const char *const made[] = {"MD_1", "PU_" BELOW, "IU_" IMAGE, "other", NULL};
    struct text_lv lv = lv_of(VOLUME, 5, made);
    (void)state;

    assert_true(lv.volume && !lv.special && !lv.half_made && !lv.removed && !lv.merged && !lv.going);
    assert_string_equal(lv.image, IMAGE);
    assert_string_equal(lv.parent, BELOW);
    assert_int_equal(lv.slot, 1);
    lv = lv_of(VOLUME, 5, (const char *const[]){"OVIRT_VOL_INITIALIZING", NULL});
    assert_true(lv.half_made && lv.image[0] == '\0' && lv.slot == 0);
    lv = lv_of(VOLUME, 5, (const char *const[]){"OVIRT_VOL_INITIALIZING", "VDISK_WIPE", NULL});
    assert_true(lv.half_made && lv.wipe && !lv.wiped && !lv.going);
    lv = lv_of(VOLUME, 5, (const char *const[]){"IU__remove_me_" IMAGE, "VDISK_REMOVE", NULL});
    assert_true(lv.removed && !lv.wiped && lv.going);
    assert_string_equal(lv.image, IMAGE);
    lv = lv_of(VOLUME, 5, (const char *const[]){"IU__remove_me_ZERO_" IMAGE, "VDISK_MERGE", NULL});
    assert_true(lv.removed && lv.wiped && !lv.going && lv.merged);
    assert_string_equal(lv.image, IMAGE);
    lv = lv_of("metadata", 5, (const char *const[]){"IU_" IMAGE, NULL});
    assert_true(lv.special && lv.image[0] == '\0');
    lv = lv_of("other", 5, (const char *const[]){"IU_nothing", "PU_", "MD_", NULL});
    assert_true(!lv.special && !lv.volume && lv.image[0] == '\0' && lv.parent[0] == '\0' && lv.slot == 0);
}

static void slots_are_judged(void **state)
{
    static const char *const none[] = {"MD_0", "MD_1948", "MD_-1", "MD_1x", "MD_123456", "MD_"};
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        assert_int_equal(lv_of(VOLUME, 5, (const char *const[]){none[i], NULL}).slot, 0);
    assert_int_equal(lv_of(VOLUME, 5, (const char *const[]){"MD_1947", NULL}).slot, 1947);
    assert_int_equal(lv_of(VOLUME, 4, (const char *const[]){"MD_3", NULL}).slot, 0);
    assert_int_equal(lv_of(VOLUME, 4, (const char *const[]){"MD_4", NULL}).slot, 4);
    assert_int_equal(text_slot_offset(5, 1), (1 << 20) + 8192);
    assert_int_equal(text_slot_offset(5, 1947), (1 << 20) + 1947 * 8192);
    assert_int_equal(text_slot_offset(4, 4), 2048);
}

static void sizes_are_whole_extents(void **state)
{
    (void)state;

    assert_int_equal(text_extents(0, TEXT_EXTENT), 0);
    assert_int_equal(text_extents(1, TEXT_EXTENT), TEXT_EXTENT);
    assert_int_equal(text_extents(TEXT_EXTENT, TEXT_EXTENT), TEXT_EXTENT);
    assert_int_equal(text_extents(TEXT_EXTENT + 1, TEXT_EXTENT), 2 * TEXT_EXTENT);
    assert_int_equal(text_extents(10, 3), 12);
    assert_true(text_extents(UINT64_MAX, TEXT_EXTENT) == UINT64_MAX);
    for (size_t i = 0; i < TEXT_SPECIALS; i++)
        assert_true(text_specials[i].zeros <= text_specials[i].size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(volumes_come_back),
        cmocka_unit_test(padded_and_spaced_text_is_read),
        cmocka_unit_test(each_key_is_needed),
        cmocka_unit_test(unknown_keys_are_kept),
        cmocka_unit_test(wrong_values_are_refused),
        cmocka_unit_test(what_is_none_is_told),
        cmocka_unit_test(descriptions_are_cut),
        cmocka_unit_test(domains_come_back),
        cmocka_unit_test(a_changed_byte_is_found),
        cmocka_unit_test(other_letters_are_sealed),
        cmocka_unit_test(uuids_are_judged),
        cmocka_unit_test(tags_come_back),
        cmocka_unit_test(exports_are_known),
        cmocka_unit_test(hosts_are_named),
        cmocka_unit_test(tags_say_what_a_volume_is),
        cmocka_unit_test(slots_are_judged),
        cmocka_unit_test(sizes_are_whole_extents),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
