"""Updates that the hub cannot read.

* ``keys`` - keys to encrypt with, and what each is good for;
* ``key_set`` - the application's own keys;
* ``jwe`` - the encrypted content of an update.
"""
