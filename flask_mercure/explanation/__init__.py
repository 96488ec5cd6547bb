"""Why a user does not get the updates of a topic: from the app's grants to the hub's decision."""
