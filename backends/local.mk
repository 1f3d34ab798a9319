# Both halves of each mechanism. Knows neither sockets nor protobuf.
noinst_LTLIBRARIES += libbackends.la
libbackends_la_SOURCES = \
	backends/kernel.h \
	backends/uffdio.c \
	backends/uffdio.h \
	$(NULL)
