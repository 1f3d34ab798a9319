/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which file a descriptor of the library refers to, by its number.
 *
 * The library is a guest in its program's descriptor table. A program that closes all descriptors
 * from 3 on (closefrom(3), close_range(2): daemons do) closes the library's as well, and the next
 * files that it opens get their numbers. Writing to such a number, mapping it or closing it would
 * then harm a file of the program.
 *
 * So the library notes the file of each descriptor that it keeps (own_fd_note()), asks before it
 * uses one for anything that harms a stranger's file (own_fd_is()), and closes by own_fd_close()
 * alone. It compares device and inode. All anonymous inodes (eventfd, timerfd, userfaultfd; a pidfd
 * before Linux 6.9) share one: for those it compares the kind as well, as /proc/self/fd shows it.
 * So it cannot tell a descriptor of the program from its own of the same kind. Callers that can ask
 * for a socket or a memfd instead, which it can always tell.
 *
 * Any thread; no lock is taken and nothing is allocated by malloc(). Another thread may close the
 * number between the question and what follows it: programs that close descriptors beside running
 * threads are on their own.
 */
#ifndef COW_COMMON_OWN_FD_H
#define COW_COMMON_OWN_FD_H

#include <stdbool.h>

/** own_fd_note() - note what @fd refers to; below 0: nothing. Return: @fd */
int own_fd_note(int fd);

/**
 * own_fd_is() - whether @fd refers to what was noted
 *
 * True for one that was never noted, and for -1. A system call, or two for an anonymous inode.
 */
bool own_fd_is(int fd);

/** own_fd_raise() - say that the program has closed the library's descriptors. Return: -EBADF */
int own_fd_raise(void);

/** own_fd_close() - close @fd if it is what was noted, and forget
 * the note. Keeps errno. Return: -1 */
int own_fd_close(int fd);

/** own_fd_forget() - forget the note of a descriptor that the program has closed. Return: -1 */
int own_fd_forget(int fd);

#endif
