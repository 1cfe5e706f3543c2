/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Intrusive doubly linked list; an unlinked node points at itself. */
#ifndef ENGINE_LIST_H
#define ENGINE_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct list {
    struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_add_tail(struct list *head, struct list *node)
{
    assert(node != head && head->prev->next == head);
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void list_del(struct list *node)
{
    assert(node->prev->next == node && node->next->prev == node);
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* The first node, taken off; NULL when there is none. */
static inline struct list *list_pop(struct list *head)
{
    struct list *node = head->next;

    assert(node->prev == head);
    if (node == head)
        return NULL;
    list_del(node);
    return node;
}

/* Move all of `from` to the end of `to`. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
    assert(to != from && to->prev->next == to);
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#endif
