"""The configuration compiled for one worker: settings in, bound callables out; the loop is run by process/."""
