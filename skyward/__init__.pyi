"""What type checkers see of `import skyward`: every public name, from where it is defined.

Config classes of other provider plugins are found at run time as `sky.<Name>`; under a type checker, import them
from their own package. There is no `__getattr__` here, so that a misspelt name is an error.
"""

from skyward.api import conc as conc
from skyward.api.compute import Compute as Compute
from skyward.api.compute import PendingCompute as PendingCompute
from skyward.api.compute import PendingGroup as PendingGroup
from skyward.api.compute import compute as compute
from skyward.api.compute import gather as gather
from skyward.api.devices import current_accelerator as current_accelerator
from skyward.api.devices import is_amd as is_amd
from skyward.api.devices import is_nvidia as is_nvidia
from skyward.api.devices import is_trainium as is_trainium
from skyward.api.executor import Executor as Executor
from skyward.api.instance import InstanceInfo as InstanceInfo
from skyward.api.instance import Peer as Peer
from skyward.api.instance import instance_info as instance_info
from skyward.api.multipool import MultiPool as MultiPool
from skyward.api.output import is_head as is_head
from skyward.api.output import silent as silent
from skyward.api.output import stderr as stderr
from skyward.api.output import stdout as stdout
from skyward.api.pool import ComputePool as ComputePool
from skyward.api.pool import pool as pool
from skyward.api.prices import cheapest as cheapest
from skyward.api.prices import offers as offers
from skyward.api.prices import plan as plan
from skyward.api.shards import DistributedSampler as DistributedSampler
from skyward.api.shards import shard as shard
from skyward.api.shards import shard_iterator as shard_iterator
from skyward.builtin.local import Local as Local
from skyward.builtin.ssh import SSH as SSH
from skyward.contracts.accelerator import AcceleratorModel as AcceleratorModel
from skyward.contracts.accelerator import MigProfile as MigProfile
from skyward.contracts.engine import Engine as Engine
from skyward.contracts.engine import EngineContext as EngineContext
from skyward.contracts.engine import Sink as Sink
from skyward.contracts.hookspecs import hookimpl as hookimpl
from skyward.contracts.provider import Capabilities as Capabilities
from skyward.contracts.provider import Finding as Finding
from skyward.contracts.provider import Provider as Provider
from skyward.contracts.step import Step as Step
from skyward.contracts.strategy import Strategy as Strategy
from skyward.errors import AcceleratorError as AcceleratorError
from skyward.errors import AmbiguousLaunchError as AmbiguousLaunchError
from skyward.errors import ArgumentError as ArgumentError
from skyward.errors import AuthenticationError as AuthenticationError
from skyward.errors import BootstrapError as BootstrapError
from skyward.errors import CapacityError as CapacityError
from skyward.errors import CatalogError as CatalogError
from skyward.errors import CleanupError as CleanupError
from skyward.errors import ConfigError as ConfigError
from skyward.errors import ConnectionLost as ConnectionLost
from skyward.errors import CredentialsError as CredentialsError
from skyward.errors import DamagedCatalogError as DamagedCatalogError
from skyward.errors import ExitCode as ExitCode
from skyward.errors import GuardError as GuardError
from skyward.errors import HostKeyError as HostKeyError
from skyward.errors import HostUnreachable as HostUnreachable
from skyward.errors import ImplausiblePricesError as ImplausiblePricesError
from skyward.errors import InstanceDiskFull as InstanceDiskFull
from skyward.errors import JournalError as JournalError
from skyward.errors import NoOfferError as NoOfferError
from skyward.errors import OutputError as OutputError
from skyward.errors import PluginError as PluginError
from skyward.errors import ProtocolError as ProtocolError
from skyward.errors import ProviderError as ProviderError
from skyward.errors import PythonMismatchError as PythonMismatchError
from skyward.errors import QueryError as QueryError
from skyward.errors import QuotaError as QuotaError
from skyward.errors import RateLimitError as RateLimitError
from skyward.errors import RemoteError as RemoteError
from skyward.errors import RemoteTraceback as RemoteTraceback
from skyward.errors import ResultTooLarge as ResultTooLarge
from skyward.errors import SerializationError as SerializationError
from skyward.errors import SizeError as SizeError
from skyward.errors import SkywardError as SkywardError
from skyward.errors import SkywardWarning as SkywardWarning
from skyward.errors import StalePricesError as StalePricesError
from skyward.errors import TargetError as TargetError
from skyward.errors import TaskCancelled as TaskCancelled
from skyward.errors import TaskError as TaskError
from skyward.errors import TaskLost as TaskLost
from skyward.errors import TaskTimeout as TaskTimeout
from skyward.errors import TransportError as TransportError
from skyward.errors import UnknownProviderError as UnknownProviderError
from skyward.errors import UsageError as UsageError
from skyward.errors import WorkerDied as WorkerDied
from skyward.model import event as events
from skyward.model.accelerator import AMD as AMD
from skyward.model.accelerator import NVIDIA as NVIDIA
from skyward.model.accelerator import Accelerator as Accelerator
from skyward.model.accelerator import AcceleratorSpec as AcceleratorSpec
from skyward.model.accelerator import accelerators as accelerators
from skyward.model.image import Image as Image
from skyward.model.instance import Endpoint as Endpoint
from skyward.model.instance import Instance as Instance
from skyward.model.instance import InstanceState as InstanceState
from skyward.model.instance import LaunchRequest as LaunchRequest
from skyward.model.offer import Offer as Offer
from skyward.model.outcome import Outcome as Outcome
from skyward.model.plan import Plan as Plan
from skyward.model.plan import Refusal as Refusal
from skyward.model.report import RunReport as RunReport
from skyward.model.report import TaskReport as TaskReport
from skyward.model.requirements import Requirements as Requirements
from skyward.model.sizes import Range as Range
from skyward.model.task import Task as Task
from skyward.model.task import TaskOptions as TaskOptions
from skyward.model.volume import S3Volume as S3Volume
from skyward.model.volume import Volume as Volume
from skyward.remote.codec import allow_results_of as allow_results_of
from skyward_aws import AWS as AWS
from skyward_digitalocean import DigitalOcean as DigitalOcean
from skyward_vastai import VastAI as VastAI
from skyward_verda import Verda as Verda

__version__: str

__all__ = [
    "AMD",
    "AWS",
    "NVIDIA",
    "SSH",
    "Accelerator",
    "AcceleratorError",
    "AcceleratorModel",
    "AcceleratorSpec",
    "AmbiguousLaunchError",
    "ArgumentError",
    "AuthenticationError",
    "BootstrapError",
    "Capabilities",
    "CapacityError",
    "CatalogError",
    "CleanupError",
    "Compute",
    "ComputePool",
    "ConfigError",
    "ConnectionLost",
    "CredentialsError",
    "DamagedCatalogError",
    "DigitalOcean",
    "DistributedSampler",
    "Endpoint",
    "Engine",
    "EngineContext",
    "Executor",
    "ExitCode",
    "Finding",
    "GuardError",
    "HostKeyError",
    "HostUnreachable",
    "Image",
    "ImplausiblePricesError",
    "Instance",
    "InstanceDiskFull",
    "InstanceInfo",
    "InstanceState",
    "JournalError",
    "LaunchRequest",
    "Local",
    "MigProfile",
    "MultiPool",
    "NoOfferError",
    "Offer",
    "Outcome",
    "OutputError",
    "Peer",
    "PendingCompute",
    "PendingGroup",
    "Plan",
    "PluginError",
    "ProtocolError",
    "Provider",
    "ProviderError",
    "PythonMismatchError",
    "QueryError",
    "QuotaError",
    "Range",
    "RateLimitError",
    "Refusal",
    "RemoteError",
    "RemoteTraceback",
    "Requirements",
    "ResultTooLarge",
    "RunReport",
    "S3Volume",
    "SerializationError",
    "Sink",
    "SizeError",
    "SkywardError",
    "SkywardWarning",
    "StalePricesError",
    "Step",
    "Strategy",
    "TargetError",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskLost",
    "TaskOptions",
    "TaskReport",
    "TaskTimeout",
    "TransportError",
    "UnknownProviderError",
    "UsageError",
    "VastAI",
    "Verda",
    "Volume",
    "WorkerDied",
    "accelerators",
    "allow_results_of",
    "cheapest",
    "compute",
    "conc",
    "current_accelerator",
    "events",
    "gather",
    "hookimpl",
    "instance_info",
    "is_amd",
    "is_head",
    "is_nvidia",
    "is_trainium",
    "offers",
    "plan",
    "pool",
    "shard",
    "shard_iterator",
    "silent",
    "stderr",
    "stdout",
]
