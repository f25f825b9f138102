from hypothesis import settings

settings.register_profile("fuzz")  # `make fuzz` chooses it: effort.py
