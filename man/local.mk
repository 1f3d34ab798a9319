# Man pages, written in scdoc(5). To add one: its name in MAN_PAGES, its source beside it with .scd added.
MAN_PAGES = \
	man/cow-memory.7 \
	man/cow-scoot.7 \
	man/cow_client_new.3 \
	man/cow_fork.3 \
	man/cow_last_error.3 \
	man/cow_mmapcopy.3 \
	man/cow_region_adopt.3 \
	man/cow_region_discard.3 \
	man/cow_region_new.3 \
	man/cow_region_rollback.3 \
	man/cow_snapshot_map.3 \
	man/cow_snapshot_new.3 \
	man/cow_snapshot_open.3 \
	man/cow_snapshot_read.3 \
	man/cow_snapshot_save.3 \
	man/cow_version.3 \
	man/cowbench.1 \
	man/cowctl.1 \
	man/cowd.8 \
	man/cowd.conf.5 \
	man/libcowclient.3 \
	man/scoot_alloc.3 \
	$(NULL)
if WITH_MAN
man_MANS += $(MAN_PAGES)
endif
EXTRA_DIST += $(MAN_PAGES:=.scd)
CLEANFILES += $(MAN_PAGES)

SUFFIXES = .scd
.scd:
	$(AM_V_GEN)$(MKDIR_P) $(@D) && $(SCDOC) <$< >$@.tmp && mv $@.tmp $@

# Calls that share a page.
WITH_CLIENT_NEW = man/cow_client_ref.3 man/cow_client_unref.3
WITH_REGION_NEW = \
	man/cow_region_address.3 \
	man/cow_region_ref.3 \
	man/cow_region_size.3 \
	man/cow_region_unref.3 \
	$(NULL)
WITH_SNAPSHOT_NEW = \
	man/cow_snapshot_cost.3 \
	man/cow_snapshot_id.3 \
	man/cow_snapshot_new_outside.3 \
	man/cow_snapshot_new_with.3 \
	man/cow_snapshot_ref.3 \
	man/cow_snapshot_size.3 \
	man/cow_snapshot_unref.3 \
	$(NULL)
WITH_SCOOT_ALLOC = man/scoot_duplicate.3 man/scoot_free.3
MAN_ALIASES = $(WITH_CLIENT_NEW) $(WITH_REGION_NEW) $(WITH_SNAPSHOT_NEW) $(WITH_SCOOT_ALLOC)
if WITH_MAN
man_MANS += $(MAN_ALIASES)
endif
CLEANFILES += $(MAN_ALIASES)

$(WITH_CLIENT_NEW): Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && echo '.so man3/cow_client_new.3' >$@
$(WITH_REGION_NEW): Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && echo '.so man3/cow_region_new.3' >$@
$(WITH_SNAPSHOT_NEW): Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && echo '.so man3/cow_snapshot_new.3' >$@
$(WITH_SCOOT_ALLOC): Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && echo '.so man3/scoot_alloc.3' >$@
