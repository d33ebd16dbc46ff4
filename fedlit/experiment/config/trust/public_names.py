"""The names that a configuration from elsewhere may call, one by one.

A class or function is here if its constructor or call only computes: it opens no file or address that its arguments name,
imports nothing, and evaluates no text. The data sources read data, as `data.root` and the like say; they unpickle nothing, and
`ARGUMENT_RULES` limits those of their arguments that could do more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def _names(module: str, names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names.split())


NETWORKS = frozenset(_names("fedlit.models", "CharLSTM LeNet Logistic MLP McMahanCNN ResNet18 SimpleCNN"))
"""Values of the argument `network` of a Classifier."""

FEDLIT_NAMES = (
    *_names("fedlit", "Dirichlet FedAvg Iid Natural"),
    *_names(
        "fedlit.algorithms",
        """
        Adagrad Adam AdaptiveOptimizer Centralised Ditto FedAvg FedDyn FedNova FedRep Finetune Momentum Moon PersonalLayers
        QFedAvg Scaffold Yogi
        """,
    ),
    *_names("fedlit.aggregation", "Float32"),
    *_names("fedlit.aggregation.compression", "Half Int8 PowerSGD QSGD RandK Sign TopK"),
    *_names("fedlit.aggregation.privacy", "CentralDP DPFTRL DistributedDP LocalDP"),
    *_names("fedlit.client.dp_sgd", "ExamplePrivacy"),
    *_names("fedlit.aggregation.secure", "HomomorphicSum IdealSum SecAgg"),
    *_names("fedlit.data", "Classes Dirichlet DirichletClient Iid Natural Noise Quantity Shards"),
    *_names(
        "fedlit.data", "digits heart_disease image_folder shakespeare synthetic synthetic_hybrid torchvision_images"
    ),
    *_names("fedlit.executors", "Auto Inline Processes Ray Vectorized"),
    *_names("fedlit.experiment.observers", "PartitionFigure TensorBoard Terminal"),
    *_names("fedlit.experiment.observers.loggers", "CSV MLflow WandB"),
    *_names("fedlit.models", "Classifier"),
    *_names("fedlit.server.sampling", "Available MinSeparation Poisson PowerOfChoice RoundRobin Uniform Weighted"),
    *_names("fedlit.simulation", "Corrupt CrashWorker Drop FaultPlan Hang Raise ServerCrash"),
)
"""Names of fedlit, as conf/ and the documentation spell them."""

LIBRARY_NAMES = (
    *_names(
        "lightning.pytorch.callbacks",
        "EMAWeightAveraging EarlyStopping GradientAccumulationScheduler StochasticWeightAveraging Timer WeightAveraging",
    ),
    *_names(
        "torch.nn",
        """
        AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveLogSoftmaxWithLoss AdaptiveMaxPool1d
        AdaptiveMaxPool2d AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BCELoss BCEWithLogitsLoss
        BatchNorm1d BatchNorm2d BatchNorm3d Bilinear CELU CTCLoss ChannelShuffle CircularPad1d CircularPad2d
        CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d
        ConvTranspose3d CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss CrossMapLRN2d Dropout Dropout1d
        Dropout2d Dropout3d ELU Embedding EmbeddingBag FeatureAlphaDropout Flatten Fold FractionalMaxPool2d
        FractionalMaxPool3d GELU GLU GRU GRUCell GaussianNLLLoss GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh
        HingeEmbeddingLoss HuberLoss Identity InstanceNorm1d InstanceNorm2d InstanceNorm3d KLDivLoss L1Loss LPPool1d
        LPPool2d LPPool3d LSTM LSTMCell LayerNorm LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d LazyConv1d
        LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d LazyInstanceNorm1d
        LazyInstanceNorm2d LazyInstanceNorm3d LazyLinear LeakyReLU Linear LinearCrossEntropyLoss LocalResponseNorm
        LogSigmoid LogSoftmax MSELoss MarginRankingLoss MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d
        MaxUnpool3d Mish ModuleDict ModuleList MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss
        MultiheadAttention NLLLoss PReLU PairwiseDistance ParameterDict ParameterList PixelShuffle PixelUnshuffle
        PoissonNLLLoss RMSNorm RNN RNNCell RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d
        ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU Sequential SiLU Sigmoid SmoothL1Loss SoftMarginLoss
        Softmax Softmax2d Softmin Softplus Softshrink Softsign SyncBatchNorm Tanh Tanhshrink Threshold Transformer
        TransformerDecoder TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer TripletMarginLoss
        Unflatten Unfold Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
        """,
    ),
    *_names(
        "torch.optim",
        """
        ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam
        """,
    ),
    *_names(
        "torch.optim.lr_scheduler",
        """
        ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR
        MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau SequentialLR StepLR
        """,
    ),
    *_names(
        "torchmetrics.classification",
        """
        AUROC Accuracy AveragePrecision BinaryAUROC BinaryAccuracy BinaryAveragePrecision BinaryCalibrationError
        BinaryCohenKappa BinaryConfusionMatrix BinaryEER BinaryF1Score BinaryFBetaScore BinaryFairness
        BinaryGroupStatRates BinaryHammingDistance BinaryHingeLoss BinaryJaccardIndex BinaryLogAUC
        BinaryMatthewsCorrCoef BinaryNegativePredictiveValue BinaryPrecision BinaryPrecisionAtFixedRecall
        BinaryPrecisionRecallCurve BinaryROC BinaryRecall BinaryRecallAtFixedPrecision BinarySensitivityAtSpecificity
        BinarySpecificity BinarySpecificityAtSensitivity BinaryStatScores CalibrationError CohenKappa ConfusionMatrix
        EER ExactMatch F1Score FBetaScore HammingDistance HingeLoss JaccardIndex LogAUC MatthewsCorrCoef
        MulticlassAUROC MulticlassAccuracy MulticlassAveragePrecision MulticlassCalibrationError MulticlassCohenKappa
        MulticlassConfusionMatrix MulticlassEER MulticlassExactMatch MulticlassF1Score MulticlassFBetaScore
        MulticlassHammingDistance MulticlassHingeLoss MulticlassJaccardIndex MulticlassLogAUC
        MulticlassMatthewsCorrCoef MulticlassNegativePredictiveValue MulticlassPrecision
        MulticlassPrecisionAtFixedRecall MulticlassPrecisionRecallCurve MulticlassROC MulticlassRecall
        MulticlassRecallAtFixedPrecision MulticlassSensitivityAtSpecificity MulticlassSpecificity
        MulticlassSpecificityAtSensitivity MulticlassStatScores MultilabelAUROC MultilabelAccuracy
        MultilabelAveragePrecision MultilabelConfusionMatrix MultilabelCoverageError MultilabelEER
        MultilabelExactMatch MultilabelF1Score MultilabelFBetaScore MultilabelHammingDistance MultilabelJaccardIndex
        MultilabelLogAUC MultilabelMatthewsCorrCoef MultilabelNegativePredictiveValue MultilabelPrecision
        MultilabelPrecisionAtFixedRecall MultilabelPrecisionRecallCurve MultilabelROC
        MultilabelRankingAveragePrecision MultilabelRankingLoss MultilabelRecall MultilabelRecallAtFixedPrecision
        MultilabelSensitivityAtSpecificity MultilabelSpecificity MultilabelSpecificityAtSensitivity
        MultilabelStatScores NegativePredictiveValue Precision PrecisionAtFixedRecall PrecisionRecallCurve ROC Recall
        RecallAtFixedPrecision SensitivityAtSpecificity Specificity SpecificityAtSensitivity StatScores
        """,
    ),
    *_names(
        "torchmetrics.regression",
        """
        ConcordanceCorrCoef ContinuousRankedProbabilityScore CosineSimilarity CriticalSuccessIndex ExplainedVariance
        JensenShannonDivergence KLDivergence KendallRankCorrCoef LogCoshError MeanAbsoluteError
        MeanAbsolutePercentageError MeanSquaredError MeanSquaredLogError MinkowskiDistance
        NormalizedRootMeanSquaredError PearsonCorrCoef R2Score RelativeSquaredError SpearmanCorrCoef
        SymmetricMeanAbsolutePercentageError TweedieDevianceScore WeightedMeanAbsolutePercentageError
        """,
    ),
    *_names(
        "torchmetrics.aggregation",
        """
        CatMetric MaxMetric MeanMetric MinMetric RunningMean RunningSum SumMetric
        """,
    ),
    *_names(
        "torchmetrics",
        """
        AUROC Accuracy AveragePrecision CalibrationError CohenKappa ConfusionMatrix ExactMatch F1Score FBetaScore
        HammingDistance HingeLoss JaccardIndex LogAUC MatthewsCorrCoef NegativePredictiveValue Precision
        PrecisionAtFixedRecall PrecisionRecallCurve ROC Recall RecallAtFixedPrecision SensitivityAtSpecificity
        Specificity SpecificityAtSensitivity StatScores ConcordanceCorrCoef CosineSimilarity CriticalSuccessIndex
        ExplainedVariance KLDivergence KendallRankCorrCoef LogCoshError MeanAbsoluteError MeanAbsolutePercentageError
        MeanSquaredError MeanSquaredLogError MinkowskiDistance NormalizedRootMeanSquaredError PearsonCorrCoef R2Score
        RelativeSquaredError SpearmanCorrCoef SymmetricMeanAbsolutePercentageError TweedieDevianceScore
        WeightedMeanAbsolutePercentageError CatMetric MaxMetric MeanMetric MinMetric RunningMean RunningSum SumMetric
        ClasswiseWrapper MetricCollection MinMaxMetric MultioutputWrapper
        """,
    ),
    *_names(
        "torchvision.transforms.v2",
        """
        AugMix AutoAugment CenterCrop ClampBoundingBoxes ClampKeyPoints ColorJitter Compose ConvertBoundingBoxFormat
        ConvertImageDtype CutMix ElasticTransform FiveCrop GaussianBlur GaussianNoise Grayscale Identity JPEG
        LinearTransformation MixUp Normalize PILToTensor Pad RGB RandAugment RandomAdjustSharpness RandomAffine
        RandomApply RandomAutocontrast RandomChannelPermutation RandomChoice RandomCrop RandomEqualize RandomErasing
        RandomGrayscale RandomHorizontalFlip RandomInvert RandomIoUCrop RandomOrder RandomPerspective
        RandomPhotometricDistort RandomPosterize RandomResize RandomResizedCrop RandomRotation RandomShortestSize
        RandomSolarize RandomVerticalFlip RandomZoomOut Resize SanitizeBoundingBoxes SanitizeKeyPoints ScaleJitter
        SetClampingMode TenCrop ToDtype ToImage ToPILImage ToPureTensor ToTensor TrivialAugmentWide
        UniformTemporalSubsample
        """,
    ),
)
"""Names of libraries: modules, optimizers, schedulers, metrics, callbacks and transforms."""

PUBLIC_NAMES = frozenset({*FEDLIT_NAMES, *LIBRARY_NAMES})

TORCHVISION_SETS = ("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "MNIST")
"""Data sets of conf/data. Some others of torchvision unpickle files."""

ARGUMENT_RULES: Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]] = MappingProxyType(
    {
        "fedlit.data.torchvision_images": {
            "name": (lambda value: value in TORCHVISION_SETS, f"must be one of {', '.join(TORCHVISION_SETS)}"),
            "options": (lambda value: not value or [*value] == ["split"], "may have the key split alone"),
        },
        "fedlit.data.image_folder": {
            "cache": (lambda value: value is None, "must be null, which writes no other folder")
        },
        "fedlit.executors.Ray": {  # actors exchange pickles with the machines of the cluster
            "address": (
                lambda value: value in (None, "auto"),
                "must be null or auto, which connect to no other machine",
            )
        },
    }
)
"""For some names: the arguments with a rule of their own, as a test of the value and the rule in words."""
