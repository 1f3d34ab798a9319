# Tests: `make check` runs TESTS, each under the time limit of tests/run-test.sh.
#
# A test program is a check_PROGRAMS entry that is also in TESTS. Those that link the library link the
# code behind it (libclient-internal.la), so that the program is no wrapper script and can be copied
# into the machines of tests/system/vm.sh; what is exported is tests/abi's matter.
#
#	TESTS_CFLAGS, TESTS_UNIT_LDADD   for tests/unit: libcheck, the daemon's modules
#	TESTS_SYSTEM_LDADD               for tests/system: libfixture.la (a real cowd), the library
TESTS_CFLAGS = $(EXE_CFLAGS) $(CHECK_CFLAGS) $(PROTOBUF_C_CFLAGS) -I$(top_srcdir)/tests
TESTS_UNIT_LDADD = libcowd.la $(CHECK_LIBS)
TESTS_SYSTEM_LDADD = tests/libfixture.la libclient-internal.la $(CHECK_LIBS)
TESTS_LDFLAGS = $(EXE_LINKFLAGS)

# What a test finds in its environment, whatever directory it is started from.
AM_TESTS_ENVIRONMENT = \
	abs_top_srcdir='$(abs_top_srcdir)'; export abs_top_srcdir; \
	abs_top_builddir='$(abs_top_builddir)'; export abs_top_builddir; \
	COWD_PROGRAM='$(abs_top_builddir)/cowd'; export COWD_PROGRAM; \
	COWD_EXECUTABLE='$(abs_top_builddir)/cowd'; export COWD_EXECUTABLE; \
	COWCTL_PROGRAM='$(abs_top_builddir)/cowctl'; export COWCTL_PROGRAM; \
	COWBENCH_PROGRAM='$(abs_top_builddir)/cowbench'; export COWBENCH_PROGRAM; \
	COW_FAULT_LAYER='$(abs_top_builddir)/tests/torture/.libs/libfault.so'; \
	export COW_FAULT_LAYER; \
	COWD_SANITIZERS='$(enable_sanitizers)'; export COWD_SANITIZERS; \
	CC='$(CC)'; export CC; CXX='$(CXX)'; export CXX; \
	unset COWD_ADDRESS NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES;
LOG_COMPILER = $(SHELL) $(top_srcdir)/tests/run-test.sh
SH_LOG_COMPILER = $(LOG_COMPILER) bash
dist_noinst_SCRIPTS += tests/run-test.sh tests/with-huge-pages.sh
EXTRA_DIST += tests/thread-sanitizer.supp

# A real cowd for tests/system: daemon-fixture.h.
noinst_LTLIBRARIES += tests/libfixture.la
tests_libfixture_la_SOURCES = \
	tests/system/daemon-fixture.c \
	tests/system/daemon-fixture.h \
	tests/skip.h \
	$(NULL)

# The invariants, in every mode: proof.h.
noinst_LTLIBRARIES += tests/libproof.la
tests_libproof_la_CFLAGS = $(TESTS_CFLAGS)
tests_libproof_la_SOURCES = \
	tests/system/fuse-file.c \
	tests/system/fuse-file.h \
	tests/system/pairs.c \
	tests/system/pairs.h \
	tests/system/proof.c \
	tests/system/proof.h \
	tests/system/raw.c \
	tests/system/raw.h \
	$(NULL)
PROOF_LDADD = tests/libproof.la $(TESTS_SYSTEM_LDADD)

PROOF_TESTS = \
	tests/system/bounded-memory \
	tests/system/budget \
	tests/system/cowctl-snapshot \
	tests/system/death \
	tests/system/descriptors \
	tests/system/entries \
	tests/system/entries-stack \
	tests/system/fork-moments \
	tests/system/handles \
	tests/system/hostile \
	tests/system/invariants \
	tests/system/limits \
	tests/system/manual-oracle \
	tests/system/many-clients \
	tests/system/ordered-pairs \
	tests/system/outside \
	tests/system/save \
	tests/system/save-kinds \
	tests/system/save-streams \
	tests/system/thousand-clients \
	tests/system/uffd-mapping \
	tests/system/uffd-oracle \
	tests/system/uffd-service \
	tests/system/without-device \
	$(NULL)
check_PROGRAMS += $(PROOF_TESTS)
TESTS += $(PROOF_TESTS)
tests_system_bounded_memory_CFLAGS = $(TESTS_CFLAGS)
tests_system_bounded_memory_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_bounded_memory_LDADD = $(PROOF_LDADD)
tests_system_budget_CFLAGS = $(TESTS_CFLAGS)
tests_system_budget_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_budget_LDADD = $(PROOF_LDADD)
tests_system_cowctl_snapshot_CFLAGS = $(TESTS_CFLAGS)
tests_system_cowctl_snapshot_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_cowctl_snapshot_LDADD = $(PROOF_LDADD)
tests_system_death_CFLAGS = $(TESTS_CFLAGS)
tests_system_death_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_death_LDADD = $(PROOF_LDADD)
tests_system_descriptors_CFLAGS = $(TESTS_CFLAGS)
tests_system_descriptors_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_descriptors_LDADD = $(PROOF_LDADD)
tests_system_entries_SOURCES = \
	tests/system/entries.c \
	tests/system/entries.h \
	tests/system/entries-fixture.c \
	$(NULL)
tests_system_entries_CFLAGS = $(TESTS_CFLAGS)
tests_system_entries_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_entries_LDADD = $(PROOF_LDADD)
tests_system_entries_stack_SOURCES = \
	tests/system/entries-fixture.c \
	tests/system/entries-stack.c \
	tests/system/entries.h \
	$(NULL)
tests_system_entries_stack_CFLAGS = $(TESTS_CFLAGS)
tests_system_entries_stack_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_entries_stack_LDADD = $(PROOF_LDADD)
tests_system_fork_moments_CFLAGS = $(TESTS_CFLAGS)
tests_system_fork_moments_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_fork_moments_LDADD = $(PROOF_LDADD)
tests_system_handles_CFLAGS = $(TESTS_CFLAGS)
tests_system_handles_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_handles_LDADD = $(PROOF_LDADD)
tests_system_hostile_CFLAGS = $(TESTS_CFLAGS)
tests_system_hostile_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_hostile_LDADD = $(PROOF_LDADD)
tests_system_invariants_CFLAGS = $(TESTS_CFLAGS)
tests_system_invariants_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_invariants_LDADD = $(PROOF_LDADD)
tests_system_limits_CFLAGS = $(TESTS_CFLAGS)
tests_system_limits_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_limits_LDADD = $(PROOF_LDADD)
tests_system_manual_oracle_SOURCES = \
	tests/system/manual-oracle.c \
	tests/system/manual-oracle.h \
	tests/system/manual-oracle-children.c \
	tests/system/manual-oracle-company.c \
	tests/system/manual-oracle-cowd.c \
	tests/system/manual-oracle-model.c \
	tests/system/manual-oracle-regions.c \
	tests/system/manual-oracle-save.c \
	tests/system/manual-oracle-steps.c \
	$(NULL)
tests_system_manual_oracle_CFLAGS = $(TESTS_CFLAGS)
tests_system_manual_oracle_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_manual_oracle_LDADD = $(PROOF_LDADD)
tests_system_many_clients_CFLAGS = $(TESTS_CFLAGS)
tests_system_many_clients_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_many_clients_LDADD = $(PROOF_LDADD)
tests_system_ordered_pairs_CFLAGS = $(TESTS_CFLAGS)
tests_system_ordered_pairs_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_ordered_pairs_LDADD = $(PROOF_LDADD)
tests_system_outside_CFLAGS = $(TESTS_CFLAGS)
tests_system_outside_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_outside_LDADD = $(PROOF_LDADD)
tests_system_save_CFLAGS = $(TESTS_CFLAGS)
tests_system_save_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_save_LDADD = $(PROOF_LDADD)
tests_system_save_kinds_CFLAGS = $(TESTS_CFLAGS)
tests_system_save_kinds_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_save_kinds_LDADD = $(PROOF_LDADD)
tests_system_save_streams_CFLAGS = $(TESTS_CFLAGS)
tests_system_save_streams_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_save_streams_LDADD = $(PROOF_LDADD)
tests_system_thousand_clients_CFLAGS = $(TESTS_CFLAGS)
tests_system_thousand_clients_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_thousand_clients_LDADD = $(PROOF_LDADD)
tests_system_uffd_oracle_CFLAGS = $(TESTS_CFLAGS)
tests_system_uffd_oracle_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_uffd_oracle_LDADD = $(PROOF_LDADD)
tests_system_uffd_mapping_CFLAGS = $(TESTS_CFLAGS)
tests_system_uffd_mapping_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_uffd_mapping_LDADD = $(PROOF_LDADD)
tests_system_uffd_service_CFLAGS = $(TESTS_CFLAGS)
tests_system_uffd_service_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_uffd_service_LDADD = $(PROOF_LDADD)
tests_system_without_device_CFLAGS = $(TESTS_CFLAGS)
tests_system_without_device_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_without_device_LDADD = $(PROOF_LDADD)

# The same with one feature of newer kernels less at a time.
TESTS += tests/system/fallbacks.sh
dist_noinst_SCRIPTS += tests/system/fallbacks.sh
tests/system/fallbacks.log: tests/system/invariants tests/system/ordered-pairs tests/system/uffd-oracle

# Started by hand; the installed units under a real systemd; older kernels (./check --kernels).
TESTS += tests/system/foreground.sh tests/system/systemd.sh tests/system/systemd-faults.sh
dist_noinst_SCRIPTS += \
	tests/system/foreground.sh \
	tests/system/pid1.sh \
	tests/system/systemd-faults.sh \
	tests/system/systemd.sh \
	tests/system/vm.sh \
	$(NULL)
EXTRA_DIST += \
	tests/system/systemd-client.c \
	tests/system/systemd-inside.sh.inc \
	tests/system/systemd.sh.inc \
	$(NULL)

# Lint that ./check runs too; `make tidy` is slow and wants clang-tidy.
EXTRA_DIST += tests/lint/files.sh.inc
dist_noinst_SCRIPTS += \
	tests/lint/cppcheck.sh \
	tests/lint/format.sh \
	tests/lint/layers.sh \
	tests/lint/shell.sh \
	tests/lint/text.sh \
	tests/lint/tidy/run.sh \
	$(NULL)
.PHONY: tidy format lint
tidy: $(BUILT_SOURCES)
	bash $(top_srcdir)/tests/lint/tidy/run.sh '$(abs_top_builddir)' \
		$(DEFS) $(DEFAULT_INCLUDES) $(AM_CPPFLAGS) $(CHECK_CFLAGS) $(SYSTEMD_CFLAGS) \
		$(INIH_CFLAGS) $(JSON_C_CFLAGS) $(SMARTCOLS_CFLAGS) $(CAP_NG_CFLAGS)
format:
	bash $(top_srcdir)/tests/lint/format.sh --fix
lint:
	for script in $(top_srcdir)/tests/lint/*.sh; do bash "$$script" '$(abs_top_builddir)' || exit; done

# Where old pages are kept.
check_PROGRAMS += tests/unit/test-store
TESTS += tests/unit/test-store
tests_unit_test_store_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_store_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_store_LDADD = $(TESTS_UNIT_LDADD)
check_PROGRAMS += tests/unit/test-worker
TESTS += tests/unit/test-worker
tests_unit_test_worker_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_worker_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_worker_LDADD = $(TESTS_UNIT_LDADD)

# The daemon's frame.
FRAME_TESTS = \
	tests/unit/test-extent \
	tests/unit/test-format \
	tests/unit/test-loop \
	tests/unit/test-options \
	tests/unit/test-closer \
	tests/unit/test-quota \
	tests/unit/test-rpc \
	tests/unit/test-sandbox \
	tests/unit/test-session \
	tests/unit/test-states \
	tests/unit/test-tracker \
	$(NULL)
check_PROGRAMS += $(FRAME_TESTS)
TESTS += $(FRAME_TESTS)
tests_unit_test_format_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_format_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_format_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_loop_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_loop_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_loop_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_options_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_options_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_options_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_closer_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_closer_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_closer_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_quota_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_quota_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_quota_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_extent_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_extent_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_extent_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_extent_SOURCES = tests/unit/test-extent.c tests/unit/frame.c tests/unit/frame.h \
	tests/unit/scoot-fixture.h
tests_unit_test_rpc_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_rpc_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_rpc_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_rpc_SOURCES = tests/unit/test-rpc.c tests/unit/frame.c tests/unit/frame.h
tests_unit_test_session_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_session_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_session_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_session_SOURCES = tests/unit/test-session.c tests/unit/frame.c tests/unit/frame.h
tests_unit_test_states_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_states_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_states_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_states_SOURCES = tests/unit/test-states.c tests/unit/frame.c tests/unit/frame.h
tests_unit_test_tracker_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_tracker_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_tracker_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_tracker_SOURCES = tests/unit/test-tracker.c tests/unit/frame.c tests/unit/frame.h \
	tests/unit/scoot-fixture.h
tests_unit_test_sandbox_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_sandbox_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_sandbox_LDADD = $(TESTS_UNIT_LDADD)

# The library without its daemon, with the next one, and with a strange one.
LIBRARY_TESTS = \
	tests/system/leases \
	tests/system/library-errors \
	tests/system/private \
	tests/system/reconnect \
	tests/system/resume \
	$(NULL)
check_PROGRAMS += $(LIBRARY_TESTS)
TESTS += $(LIBRARY_TESTS)
tests_system_leases_CFLAGS = $(TESTS_CFLAGS)
tests_system_leases_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_leases_LDADD = $(PROOF_LDADD)
tests_system_library_errors_CFLAGS = $(TESTS_CFLAGS)
tests_system_library_errors_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_library_errors_LDADD = $(PROOF_LDADD)
tests_system_private_CFLAGS = $(TESTS_CFLAGS)
tests_system_private_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_private_LDADD = $(PROOF_LDADD)
tests_system_reconnect_CFLAGS = $(TESTS_CFLAGS)
tests_system_reconnect_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_reconnect_LDADD = $(PROOF_LDADD)
tests_system_resume_CFLAGS = $(TESTS_CFLAGS)
tests_system_resume_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_resume_LDADD = $(PROOF_LDADD)

# The built library, loaded and closed as a plug-in.
check_PROGRAMS += tests/system/unload
TESTS += tests/system/unload
tests_system_unload_CFLAGS = $(TESTS_CFLAGS)
tests_system_unload_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_unload_LDADD = tests/libfixture.la libcommon.la $(CHECK_LIBS)
EXTRA_tests_system_unload_DEPENDENCIES = libcowclient.la

# Frozen memory: backends/scoot alone, and modes scoot and mmapcopy with a cowd.
SCOOT_UNIT_TESTS = \
	tests/unit/test-extents \
	tests/unit/test-pagebits \
	tests/unit/test-pagemap \
	tests/unit/test-prefault \
	tests/unit/test-record \
	tests/unit/test-scoot \
	tests/unit/test-scoot-fork \
	tests/unit/test-scoot-pages \
	tests/unit/test-scoot-protect \
	tests/unit/test-shadow \
	tests/unit/test-shadow-early \
	tests/unit/test-uffdio \
	$(NULL)
SCOOT_TESTS = $(SCOOT_UNIT_TESTS) \
	tests/system/overlays \
	tests/system/memory-calls \
	tests/system/scoot-adopt \
	tests/system/scoot-children \
	tests/system/scoot-fork \
	tests/system/scoot-memory \
	tests/system/scoot-oracle \
	tests/system/scoot-malloc \
	tests/system/scoot-readers \
	tests/system/scoot-stop \
	tests/system/scoot-traps \
	$(NULL)
check_PROGRAMS += $(SCOOT_TESTS)
TESTS += $(SCOOT_TESTS)
tests_system_overlays_CFLAGS = $(TESTS_CFLAGS)
tests_system_overlays_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_overlays_LDADD = $(PROOF_LDADD)
tests_system_memory_calls_CFLAGS = $(TESTS_CFLAGS)
tests_system_memory_calls_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_memory_calls_LDADD = $(PROOF_LDADD)
tests_system_scoot_adopt_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_adopt_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_adopt_LDADD = $(PROOF_LDADD)
tests_system_scoot_fork_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_fork_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_fork_LDADD = $(PROOF_LDADD)
tests_unit_test_extents_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_extents_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_extents_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_pagebits_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_pagebits_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_pagebits_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_pagemap_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_pagemap_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_pagemap_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_record_SOURCES = tests/unit/test-record.c tests/unit/scoot-fixture.h
tests_unit_test_record_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_record_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_record_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_prefault_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_prefault_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_prefault_LDADD = libclient-internal.la $(CHECK_LIBS)
tests_unit_test_uffdio_SOURCES = tests/unit/test-uffdio.c tests/unit/scoot-fixture.h
tests_unit_test_uffdio_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_uffdio_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_uffdio_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_scoot_SOURCES = tests/unit/test-scoot.c tests/unit/scoot-fixture.h
tests_unit_test_scoot_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_scoot_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_scoot_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_scoot_fork_SOURCES = tests/unit/test-scoot-fork.c tests/unit/scoot-fixture.h
tests_unit_test_scoot_fork_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_scoot_fork_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_scoot_fork_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_scoot_pages_SOURCES = tests/unit/test-scoot-pages.c tests/unit/scoot-fixture.h
tests_unit_test_scoot_pages_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_scoot_pages_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_scoot_pages_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_scoot_protect_SOURCES = tests/unit/test-scoot-protect.c tests/unit/scoot-fixture.h
tests_unit_test_scoot_protect_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_scoot_protect_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_scoot_protect_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_shadow_SOURCES = tests/unit/test-shadow.c tests/unit/scoot-fixture.h tests/unit/shadow-fixture.h
tests_unit_test_shadow_early_SOURCES = tests/unit/test-shadow-early.c tests/unit/scoot-fixture.h \
	tests/unit/shadow-fixture.h
tests_unit_test_shadow_early_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_shadow_early_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_shadow_early_LDADD = $(TESTS_UNIT_LDADD)
tests_unit_test_shadow_CFLAGS = $(TESTS_CFLAGS) $(SECCOMP_CFLAGS)
tests_unit_test_shadow_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_shadow_LDADD = $(TESTS_UNIT_LDADD) $(SECCOMP_LIBS)
tests_system_scoot_memory_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_memory_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_memory_LDADD = $(PROOF_LDADD)
tests_system_scoot_children_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_children_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_children_LDADD = $(PROOF_LDADD)
tests_system_scoot_oracle_SOURCES = \
	tests/system/scoot-oracle.c \
	tests/system/scoot-oracle.h \
	tests/system/scoot-oracle-cut.c \
	$(NULL)
tests_system_scoot_oracle_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_oracle_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_oracle_LDADD = $(PROOF_LDADD)
tests_system_scoot_malloc_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_malloc_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_malloc_LDADD = $(PROOF_LDADD)
tests_system_scoot_readers_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_readers_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_readers_LDADD = $(PROOF_LDADD)
tests_system_scoot_stop_SOURCES = \
	tests/system/scoot-stop.c \
	tests/system/scoot-stop.h \
	tests/system/scoot-stop-refused.c \
	tests/system/scoot-stop-threads.c \
	$(NULL)
tests_system_scoot_stop_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_stop_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_stop_LDADD = $(PROOF_LDADD)
tests_system_scoot_traps_CFLAGS = $(TESTS_CFLAGS)
tests_system_scoot_traps_LDFLAGS = $(TESTS_LDFLAGS)
tests_system_scoot_traps_LDADD = $(PROOF_LDADD)

# What programs that link the library rely on.
ABI_TESTS = \
	tests/abi/check-build.sh \
	tests/abi/check-docs.sh \
	tests/abi/check-entries.sh \
	tests/abi/check-exports.sh \
	tests/abi/check-headers.sh \
	tests/abi/check-options.sh \
	$(NULL)
dist_check_SCRIPTS += $(ABI_TESTS)
TESTS += $(ABI_TESTS)

# The tools as people and scripts use them.
TESTS += tests/system/cowctl.sh tests/system/cowbench.sh tests/system/readme.sh
dist_noinst_SCRIPTS += tests/system/cowctl.sh tests/system/cowbench.sh tests/system/readme.sh
EXTRA_DIST += tests/system/tool.sh.inc
dist_noinst_SCRIPTS += quickstart
# check is the name of a target as well, so it is in no list of files.
dist-hook:
	cp -p $(top_srcdir)/check '$(distdir)/check'

# What everything else stands on.
COMMON_TESTS = \
	tests/unit/test-client-states \
	tests/unit/test-err \
	tests/unit/test-hist \
	tests/unit/test-registry \
	tests/unit/test-wire \
	$(NULL)
check_PROGRAMS += $(COMMON_TESTS)
TESTS += $(COMMON_TESTS)
tests_unit_test_client_states_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_client_states_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_client_states_LDADD = libclient-internal.la $(CHECK_LIBS)
tests_unit_test_err_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_err_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_err_LDADD = libcommon.la $(CHECK_LIBS)
tests_unit_test_hist_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_hist_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_hist_LDADD = libcommon.la $(CHECK_LIBS)
tests_unit_test_registry_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_registry_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_registry_LDADD = libclient-internal.la $(CHECK_LIBS)
tests_unit_test_wire_CFLAGS = $(TESTS_CFLAGS)
tests_unit_test_wire_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_wire_LDADD = libcommon.la $(CHECK_LIBS)

check_PROGRAMS += tests/unit/test-tools
TESTS += tests/unit/test-tools
tests_unit_test_tools_CFLAGS = $(TESTS_CFLAGS) $(JSON_C_CFLAGS)
tests_unit_test_tools_LDFLAGS = $(TESTS_LDFLAGS)
tests_unit_test_tools_LDADD = tools/libtools.la $(CHECK_LIBS)
tests_unit_test_tools_SOURCES = tests/unit/test-tools.c

# ./check itself.
TESTS += tests/system/check-script.sh
dist_noinst_SCRIPTS += tests/system/check-script.sh

# What a client may send: the fuzzer's target, replayed by `make check`; `make fuzz` needs clang.
check_PROGRAMS += tests/fuzz/replay
TESTS += tests/fuzz/replay
tests_fuzz_replay_SOURCES = \
	tests/fuzz/fuzz-dispatch.c \
	tests/fuzz/replay.c \
	tests/fuzz/shim/check.h \
	tests/unit/frame.c \
	tests/unit/frame.h \
	$(NULL)
tests_fuzz_replay_CFLAGS = -I$(top_srcdir)/tests/fuzz/shim $(TESTS_CFLAGS)
tests_fuzz_replay_LDFLAGS = $(TESTS_LDFLAGS)
tests_fuzz_replay_LDADD = $(TESTS_UNIT_LDADD)

dist_noinst_SCRIPTS += tests/fuzz/run.sh
.PHONY: fuzz
fuzz: $(BUILT_SOURCES) tests/fuzz/replay
	bash $(top_srcdir)/tests/fuzz/run.sh '$(abs_top_builddir)'

# Every allocation, descriptor and system call fails once: tests/torture/torture.c.
TORTURE_TESTS = \
	tests/torture/daemon-allocations.sh \
	tests/torture/daemon-calls.sh \
	tests/torture/library-allocations.sh \
	tests/torture/library-calls.sh \
	$(NULL)
TESTS += $(TORTURE_TESTS)
dist_noinst_SCRIPTS += $(TORTURE_TESTS)
check_LTLIBRARIES = tests/torture/libfault.la
tests_torture_libfault_la_CFLAGS = $(AM_CFLAGS)
tests_torture_libfault_la_LDFLAGS = -module -avoid-version -shared -rpath /nowhere
tests_torture_libfault_la_SOURCES = \
	tests/torture/allocation.c \
	tests/torture/fault.c \
	tests/torture/fault.h \
	tests/torture/layer.h \
	$(NULL)
check_PROGRAMS += tests/torture/torture
tests_torture_torture_SOURCES = \
	tests/torture/fault.h \
	tests/torture/script.c \
	tests/torture/script.h \
	tests/torture/torture.c \
	$(NULL)
tests_torture_torture_CFLAGS = $(TESTS_CFLAGS)
tests_torture_torture_LDFLAGS = $(TESTS_LDFLAGS)
tests_torture_torture_LDADD = $(PROOF_LDADD)
