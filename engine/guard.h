/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A raw volume whose format was guessed: its user may not make it look like another format. */
#ifndef ENGINE_GUARD_H
#define ENGINE_GUARD_H

#include "engine/foreign.h"
#include "engine/request.h"

/* Carry out a write, zero or discard that begins within the first FOREIGN_HEAD bytes; ends by request_end(). */
void guard_start(struct request *r);

#endif
