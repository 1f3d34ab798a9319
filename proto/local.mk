# Generated code is built with the project's flags but not its warnings; its header is a system
# header, since its initialisers cast away const wherever they are used.
noinst_LTLIBRARIES += libproto.la
nodist_libproto_la_SOURCES = proto/cow.pb-c.c proto/cow.pb-c.h
libproto_la_CFLAGS = -std=gnu11 -fvisibility=hidden $(BASE_CFLAGS) $(PROTOBUF_C_CFLAGS)
libproto_la_LIBADD = $(PROTOBUF_C_LIBS)

BUILT_SOURCES += proto/cow.pb-c.h
CLEANFILES += proto/cow.pb-c.c proto/cow.pb-c.h
EXTRA_DIST += proto/cow.proto proto/PROTOCOL.md

proto/cow.pb-c.c: proto/cow.proto
	$(AM_V_GEN)$(MKDIR_P) proto && $(PROTOC_C) --proto_path=$(top_srcdir) --c_out=. $(top_srcdir)/proto/cow.proto \
		&& $(SED) -i '1i #pragma GCC system_header' proto/cow.pb-c.h
proto/cow.pb-c.h: proto/cow.pb-c.c
	@test -f $@ || { rm -f proto/cow.pb-c.c && $(MAKE) $(AM_MAKEFLAGS) proto/cow.pb-c.c; }
