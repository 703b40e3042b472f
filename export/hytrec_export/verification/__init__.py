"""Whether a build, an engine, a live server or a machine is right."""
