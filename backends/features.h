/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of what newer kernels can do, for `cowd --without-feature NAME`. */
#ifndef COW_BACKENDS_FEATURES_H
#define COW_BACKENDS_FEATURES_H

#include <stddef.h>
#include <stdint.h>

/* Features with a name that are no bit of UFFDIO_API. */
enum without {
	WITHOUT_DONTUNMAP = 1 << 0,
	WITHOUT_PAGEMAP_SCAN = 1 << 1,
	WITHOUT_CONTINUE_WP = 1 << 2,
};

struct kernel_feature {
	const char *name;
	uint64_t uffd_features; /* bits of UFFDIO_API */
	unsigned int without;   /* enum without */
};

/** kernel_feature_find() - by name, or NULL */
const struct kernel_feature *kernel_feature_find(const char *name);

/** kernel_feature_names() - all names, for a sentence. Return: @buf */
const char *kernel_feature_names(char *buf, size_t size);

#endif
