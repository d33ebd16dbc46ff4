"""Ordinary LightningModules and networks: none depends on federated learning."""

from fedlit.models.classifier import Classifier
from fedlit.models.networks import MLP, LeNet, Logistic, McMahanCNN, SimpleCNN
from fedlit.models.resnet import ResNet18
from fedlit.models.text import CharLSTM

__all__ = ["MLP", "CharLSTM", "Classifier", "LeNet", "Logistic", "McMahanCNN", "ResNet18", "SimpleCNN"]
