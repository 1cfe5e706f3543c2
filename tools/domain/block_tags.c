/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata of a domain in a volume group: tags of the group.
 *
 * Works: a pair is a tag, and the checksum of all is one; what changes is one command. Fails: a pair has no room
 * in a tag; as lvm.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/domain/block.h"

static int add_pair(struct block_tags *t, const char *key, const char *value)
{
    char line[TEXT_TAG_MAX];
    size_t prefix = sizeof TEXT_TAG_PAIR - 1;
    char *tag = t->text[t->count];

    if (t->count >= BLOCK_TAGS || snprintf(line, sizeof line, "%s=%s", key, value) >= (int)sizeof line)
        return -EOVERFLOW;
    memcpy(tag, TEXT_TAG_PAIR, prefix);
    t->list[t->count++] = tag;
    return text_tag_encode(line, tag + prefix, TEXT_TAG_MAX - prefix);
}

int block_tags(const struct text_domain *md, struct block_tags *ret)
{
    char seal[TEXT_SEAL];
    int rc = 0;

    *ret = (struct block_tags){.text = calloc(BLOCK_TAGS + 1, sizeof *ret->text)};
    if (ret->text == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; rc == 0 && i < md->count; i++)
        rc = add_pair(ret, md->list[i].key, md->list[i].value);
    text_domain_seal(md, seal);
    if (rc == 0)
        rc = add_pair(ret, "_SHA_CKSUM", seal);
    return rc < 0 ? dom_fail(rc, NULL, "the metadata of the domain does not fit into tags") : 0;
}

void block_tags_free(struct block_tags *tags)
{
    free(tags->text);
    tags->text = NULL;
}

static bool is_in(const char *tag, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(tag, *list) == 0)
            return true;
    return false;
}

/* Those of pairs that the group has, and that are no longer so; what is both has its place. */
static int replace(struct domain *d, struct block_tags *tags)
{
    struct block_state *s = d->state;
    const struct lvm_tags *have = &block_vg(d)->tags;
    const char **drop = calloc(have->count + 1, sizeof *drop), *add[BLOCK_TAGS + 2] = {NULL};
    size_t dropped = 0, added = 0;
    int rc;

    if (drop == NULL)
        return dom_fail(ENOMEM, NULL, "out of memory");
    for (size_t i = 0; i < have->count; i++)
        if (strncmp(have->list[i], TEXT_TAG_PAIR, sizeof TEXT_TAG_PAIR - 1) == 0 &&
            !is_in(have->list[i], tags->list))
            drop[dropped++] = have->list[i];
    for (size_t i = 0; i < tags->count; i++)
        if (!lvm_has_tag(have, tags->list[i]))
            add[added++] = tags->list[i];
    rc = lvm_retag_group(s->lvm, add, drop);
    free(drop);
    return rc;
}

int block_write_domain(struct domain *d, const char *text, size_t len)
{
    struct block_state *s = d->state;
    struct block_tags tags = {.text = NULL};
    struct text_domain md = {0};
    char why[TEXT_WHY];
    int rc = text_domain_parse(text, len, &md, why);

    if (rc < 0)
        return dom_fail(rc, NULL, "%s: its metadata: %s", d->path, rc == -EBADMSG ? why : strerror(-rc));
    rc = block_tags(&md, &tags);
    if (rc == 0)
        rc = lvm_begin(s->lvm);
    if (rc == 0) {
        block_stale(d);
        rc = block_refresh(d);
        if (rc == 0)
            rc = replace(d, &tags);
        lvm_end(s->lvm);
    }
    block_tags_free(&tags);
    text_domain_free(&md);
    block_stale(d);
    return rc;
}
