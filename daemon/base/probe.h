/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What this kernel can do, found by trying at start, before the sandbox closes. Compile-time
 * headers say nothing about the kernel that runs.
 */
#ifndef COWD_PROBE_H
#define COWD_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct options;

struct probe {
	char release[65];       /* uname */
	uint64_t uffd_features; /* answered by UFFDIO_API, less options->without_features */
	bool has_uffd;          /* write-protect faults on shmem can be served */
	bool has_lazy;          /* MINOR on shmem and UFFDIO_CONTINUE with write protection */
	bool has_dontunmap;     /* mremap(MREMAP_DONTUNMAP) of a shared mapping */
	bool has_pagemap_scan;
	bool has_poison;
};

/**
 * probe_kernel() - fill @probe
 * @device_fd: /dev/userfaultfd, lent, or -1: then only what needs no device is found
 *
 * Never fails: what cannot be found out is absent.
 */
void probe_kernel(struct probe *probe, const struct options *options, int device_fd);
/**
 * probe_uffd() - the part of @probe that is about userfaultfd
 * @device_fd: lent. When it could be opened only later, this is done once more, in the sandbox
 */
void probe_uffd(struct probe *probe, const struct options *options, int device_fd);

#define PROBE_MECHANISMS_MAX 64

/**
 * probe_mechanisms() - "uffd scoot mmapcopy", those that clients can use
 * @with_uffd: whether mode uffd is one of them: it takes more than a kernel, see device.h
 *
 * Return: @buf, of at least PROBE_MECHANISMS_MAX bytes.
 */
const char *probe_mechanisms(const struct probe *probe, bool with_uffd, char *buf, size_t size);

#endif
