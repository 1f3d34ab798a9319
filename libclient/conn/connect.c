// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Making a connection: socket, Hello, then the regions that an earlier cowd knew. Run by the
 * client's thread only. Until all of that is done nobody else can call, so whoever gets a
 * connection gets one on which its regions are known.
 */
#include "config.h"

#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/own-fd.h"
#include "libclient/conn/conn.h"

/* A daemon that does not take a connection off its queue for so long does not work. */
#define CONNECT_TIMEOUT_SEC 5

static int raise_eacces(const char *path, int error)
{
	char buf[1024], group[64] = "";
	struct group entry, *found = NULL;
	struct stat st;

	if (!stat(path, &st)) {
		(void)snprintf(group, sizeof(group), "%lu", (unsigned long)st.st_gid);
		if (!getgrgid_r(st.st_gid, &entry, buf, sizeof(buf), &found) && found)
			(void)snprintf(group, sizeof(group), "%s", entry.gr_name);
	}
	if (!*group)
		return err_raise(-error,
				 "cannot connect to %s: permission denied: this user may not enter "
				 "a directory on the way to it",
				 path);
	if (!(st.st_mode & S_IWGRP))
		return err_raise(
			-error,
			"cannot connect to %s: permission denied: the socket is its owner's "
			"alone (uid %lu, mode %04o): see SocketMode= of cowd.socket, or "
			"socket-mode in cowd.conf(5)",
			path, (unsigned long)st.st_uid, (unsigned int)st.st_mode & 07777);
	return err_raise(-error,
			 "cannot connect to %s: permission denied: this user has to be in group %s "
			 "(usermod -a -G %s USER, then log in again)",
			 path, group, group);
}

static int raise_connect(const char *path, int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
		return err_raise(-ENOENT,
				 "cannot connect to %s: no such file: is cowd running? (systemctl "
				 "start cowd, or use the address exec: for a private one)",
				 path);
	case ECONNREFUSED:
		return err_raise(-error,
				 "cannot connect to %s: nobody listens there: is cowd running? "
				 "(systemctl start cowd, or use the address exec: for a private "
				 "one)",
				 path);
	case EACCES:
	case EPERM:
		return raise_eacces(path, error);
	case EPROTOTYPE:
		return err_raise(-EPROTO,
				 "cannot connect to %s: it is a socket of another type, so another "
				 "program's",
				 path);
	case EAGAIN:
		return err_raise(-ECONNREFUSED,
				 "cannot connect to %s: cowd has taken no connection for %d "
				 "seconds",
				 path, CONNECT_TIMEOUT_SEC);
	default:
		errno = error;
		return err_raise_errno("cannot connect to %s", path);
	}
}

static int connect_path(int *out, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = CONNECT_TIMEOUT_SEC};
	AUTO_FD int sock = -1;
	int r;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_raise(-ENAMETOOLONG,
				 "the path of cowd's socket is %zu bytes long, a socket's path can "
				 "have %zu: %.40s…",
				 strlen(path), sizeof(addr.sun_path) - 1, path);
	memcpy(addr.sun_path, path, strlen(path));
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return err_raise_errno("cannot make a socket to connect to %s", path);
	/* For connect() only: everything is sent with MSG_DONTWAIT. */
	(void)setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	do {
		r = connect(sock, (const struct sockaddr *)&addr, sizeof(addr));
	} while (r && errno == EINTR);
	if (r)
		return raise_connect(path, errno);
	*out = fd_steal(&sock);
	return 0;
}

static int say_hello(struct cow_client *client, Cow__V1__Reply **reply, struct fdset *fds)
{
	Cow__V1__Hello hello = COW__V1__HELLO__INIT;
	Cow__V1__Request request = COW__V1__REQUEST__INIT;

	hello.version = COWI_PROTOCOL_VERSION;
	hello.program = program_invocation_short_name;
	request.call_case = COW__V1__REQUEST__CALL_HELLO;
	request.hello = &hello;
	return cowi_call_in(client, client->generation, &request, NULL, 0, reply, fds);
}

static int check_hello(struct cow_client *client, const Cow__V1__HelloReply *hello,
		       const struct fdset *fds)
{
	if (hello->version != COWI_PROTOCOL_VERSION)
		return err_raise(-EPROTO,
				 "%s at %s speaks version %u of the protocol, this library %s "
				 "speaks %u: upgrade the older of the two",
				 *hello->server ? hello->server : "cowd", client->address,
				 hello->version, PACKAGE_VERSION, COWI_PROTOCOL_VERSION);
	if (fds->n_fds != (hello->lend ? 1 : 0))
		return err_raise(-EPROTO, "cowd at %s sent %zu descriptors with its greeting",
				 client->address, fds->n_fds);
	return 0;
}

/*
 * cowd may have refused this client and closed the connection before there was a greeting that it
 * could be an answer to. Then sending that failed, and why is still to be received.
 */
static void hear_farewell(struct cow_client *client, char *sentence, size_t size)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	struct cowi_conn *conn = client->conn;
	Cow__V1__Reply *reply;
	size_t n_bytes;

	if (conn->sock < 0 || conn->farewell_error ||
	    wire_recv(conn->sock, conn->packet, sizeof(conn->packet), &n_bytes, &fds, MSG_DONTWAIT))
		return;
	reply = cow__v1__reply__unpack(NULL, n_bytes, conn->packet);
	if (reply && !reply->id && reply->error && reply->error < 4096) {
		conn->farewell_error = -(int)reply->error;
		(void)snprintf(sentence, size, "%s", reply->sentence);
	}
	if (reply)
		cow__v1__reply__free_unpacked(reply, NULL);
}

/*
 * A daemon that hangs up without an answer: a private one that could not start has said why on the
 * standard error that it shares with this program.
 */
static int raise_no_hello(struct cow_client *client, int error)
{
	char sentence[512];

	(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
	hear_farewell(client, sentence, sizeof(sentence));
	if (client->conn->farewell_error)
		error = client->conn->farewell_error;
	if (error == -EPROTONOSUPPORT)
		error = -EPROTO;
	if (error != -ENOTCONN)
		return err_raise(error, "cowd at %s: %s", client->address, sentence);
	if (client->conn->is_private)
		return err_raise(-ECONNREFUSED,
				 "the private cowd of address %s ended at once: see what it wrote "
				 "to standard error",
				 client->address);
	return err_raise(-ECONNREFUSED,
			 "cowd at %s did not accept this client: %s (is it being restarted, or "
			 "does it fail to start? systemctl status cowd)",
			 client->address, sentence);
}

static int handshake(struct cow_client *client)
{
	CLEANUP(fdset_deinit) struct fdset fds = {.n_fds = 0};
	Cow__V1__Reply *reply = NULL;
	int r;

	r = say_hello(client, &reply, &fds);
	if (r)
		return raise_no_hello(client, r);
	r = check_hello(client, reply->hello, &fds);
	if (!r) {
		pthread_mutex_lock(&client->lock);
		client->lend = reply->hello->lend;
		client->uffd_device_fd = own_fd_close(client->uffd_device_fd);
		client->uffd_device_fd = own_fd_note(fdset_take(&fds, 0));
		client->conn->daemon_pid =
			reply->hello->pid <= INT_MAX ? (pid_t)reply->hello->pid : 0;
		pthread_mutex_unlock(&client->lock);
	}
	cow__v1__reply__free_unpacked(reply, NULL);
	return r;
}

/* @sock is taken, unless another thread has found the connection to be robbed meanwhile. */
static int begin(struct cow_client *client, int *sock)
{
	struct cowi_conn *conn = client->conn;
	int r = 0;

	pthread_mutex_lock(&client->lock);
	if (cowi_conn_is_robbed(conn)) {
		r = own_fd_raise();
	} else {
		cowi_conn_enter(&conn->state, COWI_CONN_CONNECTING);
		conn->sock = own_fd_note(fd_steal(sock));
		conn->farewell_error = 0;
		client->generation++;
	}
	pthread_mutex_unlock(&client->lock);
	return r;
}

int cowi_reconnect(struct cow_client *client)
{
	struct cowi_conn *conn = client->conn;
	AUTO_FD int sock = -1;
	int r;

	r = conn->is_private ? cowi_exec(&sock, client->address)
			     : connect_path(&sock, client->address);
	if (r)
		return r;
	r = begin(client, &sock);
	if (r)
		return r;

	r = handshake(client);
	if (r) {
		char sentence[512];

		(void)snprintf(sentence, sizeof(sentence), "%s", err_sentence());
		cowi_disconnect(client, sentence);
		return err_raise(r, "%s", sentence);
	}
	conn->events->up(client);
	pthread_mutex_lock(&client->lock);
	if (conn->state == COWI_CONN_CONNECTING) {
		cowi_conn_enter(&conn->state, COWI_CONN_UP);
		conn->was_up = true;
	} else {
		r = -ENOTCONN;
	}
	pthread_mutex_unlock(&client->lock);
	if (r)
		return err_raise(r, "cowd at %s went away while regions were handed to it",
				 client->address);
	return 0;
}
