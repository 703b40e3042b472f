"""Preflight checks of a machine that is to serve a repository; a failed check says what to do."""

from hytrec_export.verification.doctor.run import Machine as Machine
from hytrec_export.verification.doctor.run import run_doctor as run_doctor
