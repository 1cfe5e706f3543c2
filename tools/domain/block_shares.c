/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who else has a volume of a group.
 *
 * Works: a template is in another image as soon as a volume of that lies on it; its data is there once. Fails: a
 * volume of the group's is of no image.
 */
#include <errno.h>
#include <string.h>

#include "tools/domain/block.h"

/* Of each image one volume counts. */
unsigned block_count_users(struct domain *d, const struct block_lv *below, const char *image)
{
    const struct block_state *s = d->state;
    unsigned count = 0;

    for (size_t i = 0; i < s->count; i++) {
        struct block_lv *b = &s->list[i];
        bool again = false;
        if (!b->is.volume || b->is.removed || b->is.image[0] == '\0' || strcmp(b->is.image, image) == 0 ||
            strcmp(b->is.image, below->is.image) == 0 || strcmp(block_below(d, b), below->lv->name) != 0)
            continue;
        for (size_t j = 0; !again && j < i; j++)
            again = strcmp(s->list[j].is.image, b->is.image) == 0 && s->list[j].asked &&
                    strcmp(s->list[j].below, below->lv->name) == 0;
        count += !again;
    }
    return count;
}

int block_count_shares(struct domain *d, const char *image, const char *volume, bool published, unsigned *ret)
{
    struct block_lv *b;
    int rc = block_refresh(d);

    (void)published; /* who lies on it shares it, whatever he has done so far */
    if (rc < 0)
        return rc;
    b = block_find(d, volume);
    if (b == NULL)
        return dom_fail(ENOENT, NULL, "%s: has no volume %s", d->path, volume);
    *ret = block_count_users(d, b, image);
    if (b->is.image[0] != '\0' && !b->is.removed && strcmp(b->is.image, image) != 0)
        (*ret)++; /* its own */
    return 0;
}

int block_share(struct domain *d, const char *image, const char *volume, const char *to_image)
{
    (void)d, (void)image, (void)volume, (void)to_image; /* the tag of what will lie on it says it */
    return 0;
}

int block_find_volume(struct domain *d, const char *volume, const char *except, char ret_image[DOMAIN_UUID])
{
    const struct block_lv *b;
    int rc = block_refresh(d);

    ret_image[0] = '\0';
    if (rc < 0)
        return rc;
    b = block_find(d, volume);
    if (b != NULL && b->is.image[0] == '\0')
        return dom_fail(EEXIST, NULL, "%s: has a logical volume %s that is of no image", d->path, volume);
    if (b != NULL && strcmp(b->is.image, except) != 0)
        memcpy(ret_image, b->is.image, DOMAIN_UUID);
    return 0;
}
