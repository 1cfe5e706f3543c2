/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The struct of the room: made empty, given back. */
#include "qcow2/map/state.h"

void q2_map_state_init(struct q2_map *map, struct q2_meta *meta, struct q2_space *space)
{
    map->meta = meta;
    map->space = space;
    for (int i = 0; i < Q2_ZONES; i++)
        range_locks_init(&map->guest_ranges[i]);
    list_init(&map->l2_making);
    list_init(&map->compressing);
}

void q2_map_state_finish(struct q2_map *map)
{
    assert(list_empty(&map->l2_making) && list_empty(&map->compressing));
    while (map->deflaters_count > 0)
        q2_deflater_destroy(map->deflaters[--map->deflaters_count]);
    for (int i = 0; i < Q2_ZONES; i++)
        range_locks_finish(&map->guest_ranges[i]);
}

bool q2_map_give_up(struct q2_map *map, const void *owner)
{
    bool given_up = false;

    for (int i = 0; i < Q2_ZONES && !given_up; i++)
        given_up = range_lock_give_up(&map->guest_ranges[i], owner);
    return given_up;
}
