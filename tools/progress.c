// SPDX-License-Identifier: GPL-2.0-or-later
/* See progress.h. */
#include "config.h"

#include "tools/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/format.h"
#include "common/util.h"
#include "tools/report.h"

#define REDRAW_USEC 100000
#define BAR_MAX     60
#define TEXT_MAX    80

void progress_init(struct progress *progress)
{
	*progress = (struct progress){
		.is_shown = isatty(STDERR_FILENO),
		.started_usec = now_usec(),
	};
}

static unsigned int terminal_columns(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col)
		return 80;
	return size.ws_col;
}

static double bytes_per_sec(const struct progress *progress, uint64_t done_bytes, uint64_t now)
{
	uint64_t usec = now - progress->started_usec;

	return usec ? (double)done_bytes * 1e6 / (double)usec : 0;
}

void progress_update(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes)
{
	char done[FORMAT_BYTES_MAX], total[FORMAT_BYTES_MAX], rate[FORMAT_BYTES_MAX];
	char left[REPORT_DURATION_MAX] = "?", bar[BAR_MAX + 1], text[TEXT_MAX + 32];
	uint64_t now = now_usec();
	double share, speed;
	int n_columns, n_bar;

	progress->done_bytes = done_bytes;
	if (!progress->is_shown ||
	    (progress->drawn_usec && now - progress->drawn_usec < REDRAW_USEC &&
	     done_bytes < total_bytes))
		return;
	progress->drawn_usec = now;
	share = total_bytes ? (double)done_bytes / (double)total_bytes : 1;
	speed = bytes_per_sec(progress, done_bytes, now);
	if (speed > 0)
		report_duration(left, (uint64_t)((double)(total_bytes - done_bytes) / speed * 1e6));
	snprintf(text, sizeof(text), "%3.0f %%  %s of %s  %s/s  %s left", share * 100,
		 format_bytes(done, done_bytes), format_bytes(total, total_bytes),
		 format_bytes(rate, (uint64_t)speed), left);

	/* The bar has what the text leaves; the last column stays
	 * free, or the terminal would wrap. */
	n_columns = (int)terminal_columns() - 1;
	n_bar = n_columns - (int)strlen(text) - 4;
	if (n_bar > BAR_MAX)
		n_bar = BAR_MAX;
	if (n_bar < 4) {
		fprintf(stderr, "\r\033[K%.*s", n_columns, text);
	} else {
		for (int i = 0; i < n_bar; i++)
			bar[i] = (double)i < share * n_bar ? '#' : '.';
		bar[n_bar] = '\0';
		fprintf(stderr, "\r\033[K[%s]  %s", bar, text);
	}
	fflush(stderr);
}

void progress_finish(struct progress *progress, bool is_done)
{
	char bytes[FORMAT_BYTES_MAX], rate[FORMAT_BYTES_MAX], took[REPORT_DURATION_MAX];
	uint64_t now = now_usec();

	if (!progress->is_shown)
		return;
	fputs("\r\033[K", stderr);
	if (is_done)
		fprintf(stderr, "%s in %s, %s/s\n", format_bytes(bytes, progress->done_bytes),
			report_duration(took, now - progress->started_usec),
			format_bytes(rate,
				     (uint64_t)bytes_per_sec(progress, progress->done_bytes, now)));
	fflush(stderr);
}
