// SPDX-License-Identifier: GPL-2.0-or-later
/* Hello: versions, and the lending of /dev/userfaultfd. */
#include "config.h"

#include "common/err.h"
#include "common/format.h"
#include "daemon/daemon.h"
#include "daemon/process/device.h"
#include "daemon/process/log.h"
#include "daemon/rpc/rpc.h"
#include "daemon/rpc/session.h"

/* Protocol versions spoken: from … to. */
#define VERSION_MIN 1
#define VERSION_MAX 1

/* Bits of Hello.features that cowd knows; version 1 has none. */
#define FEATURES UINT64_C(0)

int rpc_hello(struct rpc_call *call)
{
	const Cow__V1__Hello *hello = call->request->hello;
	struct session *session = call->session;
	struct daemon *daemon = session->daemon;
	Cow__V1__HelloReply *reply;

	if (session->has_hello)
		return err_raise(RPC_E_FATAL, "hello twice");
	if (hello->version < VERSION_MIN)
		return err_raise(-EPROTONOSUPPORT,
				 "the client speaks protocol version %u, cowd %s speaks %u to %u: "
				 "update libcowclient",
				 hello->version, PACKAGE_VERSION, VERSION_MIN, VERSION_MAX);
	reply = rpc_alloc(call, sizeof(*reply));
	if (!reply)
		return -ENOMEM;
	cow__v1__hello_reply__init(reply);
	reply->server = rpc_strdup(call, "cowd " PACKAGE_VERSION);
	if (!reply->server)
		return -ENOMEM;
	reply->version = (uint32_t)min_u64(hello->version, VERSION_MAX);
	reply->features = hello->features & FEATURES;
	reply->lend = device_lend(daemon);
	reply->pid = (uint32_t)getpid();
	if (reply->lend != LEND_NO)
		call->reply_fds[call->n_reply_fds++] = daemon->uffd_device_fd;
	call->reply.result_case = COW__V1__REPLY__RESULT_HELLO;
	call->reply.hello = reply;

	format_clean(session->program, sizeof(session->program), hello->program);
	session->has_hello = true;
	log_session(LOG_DEBUG, session, "says hello, protocol version %u", reply->version);
	return 0;
}
