"""Checks of a machine that is to serve a repository: each says what is so, or what to do."""

from hytrec_export.verification.doctor.run import Machine as Machine
from hytrec_export.verification.doctor.run import run_doctor as run_doctor
