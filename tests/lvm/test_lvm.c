/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What lvm has reported (recordings: LVM 2.03.16) is read as it was; what it might report otherwise is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <vdisk-image.h>

#include "tools/arith.h"
#include "tools/lvm/lvm.h"

#define GROUP  "8f5d6d4e-1111-4222-8333-123456789abc"
#define VOLUME "11111111-1111-4111-8111-111111111111"

static const char *folder; /* of the recordings */

static char *recording(const char *name)
{
    char path[512], *text = malloc(64 << 10);
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(text);
    text[fread(text, 1, (64 << 10) - 1, f)] = '\0';
    fclose(f);
    return text;
}

static void load(const char *name, struct lvm_report *ret)
{
    char why[LVM_WHY], *text = recording(name);

    assert_int_equal(lvm_report_parse(text, strlen(text), ret, why), 0);
    free(text);
}

static void a_group_is_read(void **state)
{
    struct lvm_report report;
    const struct lvm_vg *vg;
    const struct lvm_lv *lv;
    (void)state;

    load("groups.json", &report);
    assert_int_equal(report.count, 1); /* a device of no group is none */
    vg = &report.vgs[0];
    assert_string_equal(vg->name, GROUP);
    assert_string_equal(vg->uuid, "OFyGJb-Xw8e-G5IS-Oyey-2kmC-vcse-GlxCQB");
    assert_int_equal(vg->extent_size, 128 << 20);
    assert_int_equal(vg->size, 15300820992);
    assert_int_equal(vg->free, 1207959552);
    assert_int_equal(vg->pv_count, 2);
    assert_string_equal(vg->pvs[0].name, "/dev/loop1");
    assert_int_equal(vg->pvs[0].extents, 93);
    assert_int_equal(vg->pvs[0].metadata_copies, 2);
    assert_int_equal(vg->pvs[1].used_extents, 12);
    assert_int_equal(vg->lv_count, 2);
    assert_null(lvm_find_lv(vg, "none"));
    lv = lvm_find_lv(vg, VOLUME);
    assert_non_null(lv);
    assert_int_equal(lv->size, UINT64_C(13) << 30);
    assert_int_equal(lv->active, LVM_ACTIVE_UNKNOWN);
    assert_int_equal(lv->segment_count, 2);
    assert_string_equal(lv->segments[1].device, "/dev/loop2");
    assert_int_equal(lv->segments[1].start, UINT64_C(11776) << 20);
    assert_int_equal(lv->segments[0].extent, 1);
    assert_int_equal(lvm_find_lv(vg, "metadata")->segments[0].extent, 0);
    lvm_report_free(&report);
}

static void tags_are_found(void **state)
{
    struct lvm_report report;
    const struct lvm_tags *tags;
    (void)state;

    load("groups.json", &report);
    tags = &lvm_find_lv(&report.vgs[0], VOLUME)->tags;
    assert_int_equal(tags->count, 3);
    assert_string_equal(lvm_tag_value(tags, "MD_"), "1");
    assert_string_equal(lvm_tag_value(tags, "PU_"), "00000000-0000-0000-0000-000000000000");
    assert_null(lvm_tag_value(tags, "XX_"));
    assert_true(lvm_has_tag(tags, "IU_x"));
    assert_false(lvm_has_tag(tags, "IU_"));
    assert_true(lvm_has_tag(&report.vgs[0].tags, "RHAT_storage_domain"));
    assert_string_equal(lvm_find_lv(&report.vgs[0], "metadata")->tags.list[0], "a/b=c:#&44&");
    lvm_report_free(&report);
}

static void a_missing_device_is_seen(void **state)
{
    struct lvm_report report;
    (void)state;

    load("missing.json", &report);
    assert_string_equal(report.vgs[0].pvs[1].name, "[unknown]");
    assert_string_equal(report.vgs[0].lvs[0].segments[1].device, "[unknown]");
    lvm_report_free(&report);
}

/* Whatever byte is lost of a report: it is refused, or read as something, and nothing else happens. */
static void damaged_reports_do_no_harm(void **state)
{
    char *text = recording("groups.json"), why[LVM_WHY];
    size_t len = strlen(text), taken = 0;
    (void)state;

    for (size_t cut = 0; cut < len; cut += 7) {
        struct lvm_report report;
        char kept = text[cut];
        assert_int_equal(lvm_report_parse(text, cut, &report, why), -EBADMSG);
        assert_true(why[0] != '\0');
        text[cut] = kept == '1' ? 'x' : '1';
        if (lvm_report_parse(text, len, &report, why) == 0) {
            taken++;
            lvm_report_free(&report);
        }
        text[cut] = kept;
    }
    assert_true(taken > 0);
    free(text);
}

static void what_is_no_report_is_refused(void **state)
{
    static const char *const texts[] = {
        "", "null", "[]", "{}", "{\"report\":1}", "{\"report\":[{\"vg\":[{}]}]}",
        "{\"report\":[{\"vg\":[{\"vg_name\":\"a\",\"vg_uuid\":\"b\",\"vg_extent_size\":\"-1\",\"vg_size\":\"1\","
        "\"vg_free\":\"1\",\"vg_tags\":\"\"}]}]}",
        "{\"report\":[{\"vg\":[{\"vg_name\":\"a\",\"vg_uuid\":\"b\",\"vg_extent_size\":\"99999999999999999999\","
        "\"vg_size\":\"1\",\"vg_free\":\"1\",\"vg_tags\":\"\"}]}]}",
    };
    struct lvm_report report;
    char why[LVM_WHY];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_int_equal(lvm_report_parse(texts[i], strlen(texts[i]), &report, why), -EBADMSG);
        assert_true(why[0] != '\0');
    }
}

static void reasons_are_lvms_own(void **state)
{
    static const char *const texts[][2] = {
        {"  WARNING: Activation disabled. No device-mapper interaction will be attempted.\n"
         "  Volume group \"novg\" not found\n  Cannot process volume group novg\n",
         "Volume group \"novg\" not found"},
        {"  Invalid argument for --addtag: a b\n  Error during parsing of command line.\n",
         "Invalid argument for --addtag: a b"},
        {"\n  /dev/loop1: physical volume not initialized.\n", "/dev/loop1: physical volume not initialized"},
        {"  WARNING: only this", "WARNING: only this"},
        {"", ""},
    };
    char reason[64];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        lvm_reason(texts[i][0], reason, sizeof reason);
        assert_string_equal(reason, texts[i][1]);
    }
    lvm_reason(texts[0][0], reason, 8);
    assert_string_equal(reason, "Volume");
}

/* Programs that stand for lvm: one that fails, with a reason; one that is none. */
static void failures_are_told(void **state)
{
    const struct lvm_how fails = {.command = "false", .run_dir = "/nowhere/at/all"};
    const struct lvm_how none = {.command = "/nowhere/lvm"};
    static const char *const reason[] = {"sh", "-c", "echo '  the reason' >&2; exit 3", NULL};
    struct lvm_report report;
    struct lvm *l;
    (void)state;

    assert_int_equal(lvm_open("a/b", NULL, &l), -EINVAL);
    assert_int_equal(lvm_open("-a", NULL, &l), -EINVAL);
    assert_int_equal(lvm_open("vg", &fails, &l), 0);
    assert_int_equal(lvm_read(l, &report), -EIO);
    assert_non_null(strstr(vdisk_error_text(), "vg: false ended with status 1"));
    assert_true(lvm_begin(l) < 0); /* there is no such folder, nor can it be made */
    lvm_close(l);
    assert_int_equal(lvm_list(&none, &report), -ENOTSUP);
    assert_string_equal(vdisk_error_hint(), "install lvm2");
    assert_int_equal(lvm_run_program(reason), -EIO);
    assert_string_equal(vdisk_error_text(), "sh: the reason");
    assert_int_equal(lvm_run_program((const char *const[]){"true", NULL}), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_is_read),
        cmocka_unit_test(tags_are_found),
        cmocka_unit_test(a_missing_device_is_seen),
        cmocka_unit_test(damaged_reports_do_no_harm),
        cmocka_unit_test(what_is_no_report_is_refused),
        cmocka_unit_test(reasons_are_lvms_own),
        cmocka_unit_test(failures_are_told),
    };

    folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
