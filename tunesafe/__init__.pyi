from tunesafe.api import Study as Study
from tunesafe.api import TrialView as TrialView
from tunesafe.api import load_study as load_study
from tunesafe.api import open_stored as open_stored
from tunesafe.errors import ChangeRefusedError as ChangeRefusedError
from tunesafe.errors import DamagedError as DamagedError
from tunesafe.errors import ExitCode as ExitCode
from tunesafe.errors import LeaseLostError as LeaseLostError
from tunesafe.errors import MissingExtraError as MissingExtraError
from tunesafe.errors import Preempted as Preempted
from tunesafe.errors import SpecError as SpecError
from tunesafe.errors import StateError as StateError
from tunesafe.errors import StorageError as StorageError
from tunesafe.errors import TrialError as TrialError
from tunesafe.errors import TunesafeError as TunesafeError
from tunesafe.trial.context import Trial as Trial
from tunesafe.trial.endings import TrialPruned as TrialPruned
from tunesafe.trial.fixed import FixedTrial as FixedTrial
from tunesafe.trial.trainable import Trainable as Trainable

__version__: str
