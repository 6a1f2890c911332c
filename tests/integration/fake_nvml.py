"""A stand-in for libnvidia-ml.so.1 with fault switches, made by the C compiler.

The switches are lines of a file ``faults`` beside the library:
``<GPU> hang|spin|crash|error <NVML code>|stale``,
``count <number>``, ``init hang|crash|error <code>``, ``print``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    unsigned cec, size, cec_size;
    unsigned char nonce[0x20], report[0x2000], cec_report[0x1000];
} report_t;
typedef struct { unsigned size, attestation_size; unsigned char chain[0x1000], attestation[0x1400]; } chain_t;

static char gpus[64];

/* The fault of "what", or 0: 'h'ang, s'p'in, 'c'rash, 's'tale, or an NVML error above 0x100. */
static int fault(const char *what) {
    Dl_info self;
    char path[4096], line[128], name[32], kind[32];
    int number, found = 0;
    dladdr((void *)fault, &self);
    snprintf(path, sizeof path, "%s", self.dli_fname);
    strcat(dirname(path), "/faults");
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        int parts = sscanf(line, "%31s %31s %d", name, kind, &number);
        if (parts < 1 || strcmp(name, what)) continue;
        if (!strcmp(what, "count")) found = atoi(kind);
        else if (parts == 1) found = 1;
        else if (!strcmp(kind, "error")) found = 0x100 + number;
        else if (!strcmp(kind, "spin")) found = 'p';
        else found = kind[0];
    }
    fclose(file);
    return found;
}

static int act(const char *what) {
    int is = fault(what);
    if (is == 'h') { signal(SIGTERM, SIG_IGN); for (;;) pause(); }
    if (is == 'p') for (;;) ;
    if (is == 'c') { *(volatile int *)0 = 1; }
    return is >= 0x100 ? is - 0x100 : 0;
}

int nvmlInitWithFlags(unsigned flags) {
    if (fault("print")) { printf("NVML says hello\n"); fflush(stdout); }
    return act("init");
}
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "an error of the fake"; }
int nvmlDeviceGetCount_v2(unsigned *count) {
    int set = fault("count");
    *count = set ? set : 8;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gpus[index]; return 0; }
static int index_of(void *device) { return (char *)device - gpus; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-00000000-0000-0000-0000-%012d", index_of(device));
    return 0;
}
int nvmlDeviceGetArchitecture(void *device, unsigned *architecture) { *architecture = 9; return 0; }
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, report_t *report) {
    char name[16];
    snprintf(name, sizeof name, "%d", index_of(device));
    int code = act(name);
    if (code) return code;
    memset(report->report, 0xA0 + index_of(device), 600);
    memcpy(report->report, "\x11\xE0\x01\xFF", 4);
    memcpy(report->report + 4, report->nonce, 32);
    report->report[36] = 0;
    if (fault(name) == 's') report->report[4] ^= 1;
    report->size = 600;
    return 0;
}
int nvmlDeviceGetConfComputeGpuCertificate(void *device, chain_t *chain) {
    const char *pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    memcpy(chain->attestation, pem, strlen(pem) + 1);
    chain->attestation_size = strlen(pem) + 1;
    return 0;
}
"""


class FakeNvml:
    """The library in a folder, and its switches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if shutil.which("gcc") is None:
            assert "CI" not in os.environ, "in CI nothing is skipped"
            pytest.skip("no gcc")
        source = folder / "nvml.c"
        source.write_text(SOURCE)
        command = ["gcc", "-w", "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
        subprocess.run([*command, "-ldl"], check=True)

    def faults(self, *lines: str) -> None:
        """Set the switches."""
        (self.folder / "faults").write_text("".join(f"{line}\n" for line in lines))
