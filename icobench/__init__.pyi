"""What type checkers see of the package, whose names load when they are first used."""

from icobench import methods as methods
from icobench.answer import Answer as Answer
from icobench.api import ComparisonResult as ComparisonResult
from icobench.api import compare as compare
from icobench.api import generate as generate
from icobench.api import test_sets as test_sets
from icobench.errors import InputError as InputError
from icobench.geometry.convex import ConvexBody as ConvexBody
from icobench.geometry.convex import icosahedron as icosahedron
from icobench.geometry.mesh import write_mesh as write_mesh
from icobench.geometry.orientation import disorientation as disorientation
from icobench.geometry.orientation import to_fundamental_domain as to_fundamental_domain
from icobench.geometry.shapes import shape as shape
from icobench.images.augment import augment as augment
from icobench.images.image_set import ImageSet as ImageSet
from icobench.images.reading import Reading as Reading
from icobench.images.source import read_images as read_images
from icobench.methods.base import Method as Method
from icobench.methods.base import Problem as Problem
from icobench.network.selection import load_network as load_network
from icobench.runs.classify import classify as classify
from icobench.runs.reconstruct import reconstruct as reconstruct
from icobench.sets.simulate import simulate as simulate
from icobench.sets.test_sets import TestSet as TestSet
from icobench.simulator.experiment import Experiment as Experiment
from icobench.simulator.experiment import FlatDetector as FlatDetector
from icobench.simulator.simulator import Simulator as Simulator

__version__: str
