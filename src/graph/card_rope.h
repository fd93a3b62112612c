/* card_rope: what reading rope's keys (card_rope.c) and forming its tables (card_rope_types.c) share. */
#ifndef AM_CARD_ROPE_H
#define AM_CARD_ROPE_H

#include "graph/card_internal.h"

typedef struct rope_reader {
    card_elab      *e;
    card_pos        pos;
    const card_ast *call;
    card_val        map;  /* merged rope_scaling and rope_parameters, of this kind of layer */
    const char     *name; /* the key the map came from */
    const char     *type, *type_key;
    double          theta, partial;
    int64_t         width; /* features of a head */
} rope_reader;

/** A value of rope_type. */
typedef struct rope_type {
    const char *name;
    const char *keys[12]; /* of the map, beside rope_type, type, rope_theta and partial_rotary_factor; ended by NULL */
    /** From the plain table (t->dim, num, inv_freq of theta; factor 1) to this type's.  NULL: the plain one. */
    am_status (*scale)(rope_reader *r, card_rope *t);
    bool whole_width; /* all features are turned, those beyond partial_rotary_factor by nothing */
} rope_type;

/** NULL when there is no table for it. */
const rope_type *card_rope_type(const char *name);

#endif
