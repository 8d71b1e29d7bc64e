"""Train the networks of networks.py on scikit-learn's digits and export them with their BatchNormalization in place.

    python models/train.py [--out FOLDER]

Takes about a minute on two cores and writes the four .onnx files and the two .npz files that README.md describes.
One thread and fixed seeds: the same versions on the same kind of processor write the same bytes.
"""

import argparse
import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from networks import DigitsAutoencoder, DigitsCnn, DigitsPreact, loss_of, seeded
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 20
OPSET = 17
HELD_OUT = 500
EPOCHS = 40


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and held-out images (float32 [N, 1, 8, 8] in [0, 1]), training and held-out labels (int64 [N])."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return train_images, test_images, train_labels, test_labels


def train(network: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    """Adam with a one-cycle schedule; returns the network in eval mode.

    The classifiers see images shifted by at most one pixel; the autoencoder sees them as they are.
    """
    reach = 0 if isinstance(network, DigitsAutoencoder) else 1
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(network.parameters(), weight_decay=1e-5)
    batches = len(images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=EPOCHS * batches)
    network.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images), generator=generator)[: batches * 64].view(batches, 64):
            up, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
            shifted = nn.functional.pad(images[chosen], (reach,) * 4)[:, :, up : up + 8, left : left + 8]
            optimizer.zero_grad()
            loss_of(network, shifted, labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def export(network: nn.Module, target: Path, *, training: torch.onnx.TrainingMode) -> None:
    """Write `network` with PyTorch's TorchScript exporter.

    In its default mode that exporter folds Conv + BatchNormalization itself. PRESERVE on a network in eval mode
    keeps every node and still writes inference semantics; TRAINING is what a forgotten `.eval()` gives. Tracing in
    train mode runs the network once, which moves the running statistics a tenth of the way to those of the example
    inputs: a copy is traced, and the trained statistics are put back into the file.
    """
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(SEED))
    output = "reconstruction" if isinstance(network, DigitsAutoencoder) else "logits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and objects to training graphs
        torch.onnx.export(
            copy.deepcopy(network),
            (inputs,),
            str(target),
            dynamo=False,
            training=training,
            do_constant_folding=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=[output],
            dynamic_axes={"images": {0: "N"}, output: {0: "N"}},
        )
    model = onnx.load(target)
    trained = network.state_dict()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(trained[tensor.name].numpy(), tensor.name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def main() -> None:
    """Train, export, and print what the held-out images say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this one)"
    )
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    train_images, images, train_labels, labels = digits()
    preserve, training = torch.onnx.TrainingMode.PRESERVE, torch.onnx.TrainingMode.TRAINING

    for name, kind in {
        "digits_cnn": DigitsCnn,
        "digits_autoencoder": DigitsAutoencoder,
        "digits_preact": DigitsPreact,
    }.items():
        network = train(seeded(kind, SEED), train_images, train_labels)
        export(network, folder / f"{name}.onnx", training=preserve)
        with torch.no_grad():
            output = network(images)
        if kind is DigitsAutoencoder:
            error = nn.functional.mse_loss(output, images).item()
            print(
                f"{name}: held-out mean squared error {error:.5f}, of a variance of {images.var(0).mean().item():.5f}"
            )
            continue
        right = int((output.argmax(1) == labels).sum())
        print(f"{name}: {right} of {len(labels)} held-out images right")
        if kind is DigitsCnn:
            export(network, folder / "digits_cnn_train.onnx", training=training)
            golden = output.numpy()

    np.savez_compressed(folder / "digits.npz", images=images.numpy(), labels=labels.numpy(), digits_cnn_logits=golden)
    np.savez_compressed(folder / "digits_train.npz", images=train_images.numpy())


if __name__ == "__main__":
    main()
