from hypothesis import settings

# How long one example takes depends on what else the machine does: no test may fail by it.
settings.register_profile("hytrec", deadline=None)
settings.load_profile("hytrec")
