"""What `make measure` measures: one module a subject, each with `measure(context) -> {figure: value}`."""
