"""Everything durable: our tables in the study's database, and the few functions that touch them.

One database holds Optuna's tables and ours (``tunesafe_…``), keyed by a study's UUID and a trial's
number, never by Optuna's ids. Functions that read or write rows take a connection, do not commit,
and have a name and a sentence; who calls them decides what shares a transaction. No torch, no
Optuna, nothing that is ever unpickled.

    urls          database addresses: understood, made canonical, shown without a password
    engine        one way to open each database, to write and to read; the database's clock
    faults        a driver's error as one of ours: what happened, what was not harmed, what to do
    first_open    the lock under which a database is opened for the first time
    tables        the tables; migrations brings a database to them
    jsontext      values as JSON that comes back exactly
    studies       what is known of a study as a whole
    identity      which process this is, and whether another one is provably dead
    trial_rows    what our row of a trial says, as a value and sealed
    claims        who may write to a trial: phases, leases, fences
    records       reports with their verdicts, written ahead
    blobs         bytes by hash; packs holds the large ones beside the database
    checkpoints   whole states made of them: manifests lists their bytes, checkpoint_rows has their rows
    saving        a state on its way to disk; loading brings bytes back, verified
    retention     which of them are kept; forgetting removes the others, and what has no name then
    inventory     how many bytes they are, and where
    events, logs  what happened, and what user code printed
    reading       what `tunesafe status` shows; tallies counts trials by where they are
"""

from __future__ import annotations

__all__: list[str] = []
