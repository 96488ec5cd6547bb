"""Where the history and the fan-out meet: dispatch, replay and presence, behind one ``Broker``."""
