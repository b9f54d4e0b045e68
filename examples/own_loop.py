"""Your own model and loop, without weight transport, proven by the audit.

python examples/own_loop.py
"""

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import SoftAlignment, alignment, audit_weight_transport, set_learning_rule


def main() -> None:
    """Train a small convolutional network on made images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 4)
    )
    images, labels = torch.randn(512, 1, 8, 8), torch.randint(0, 4, (512,))
    images += F.one_hot(labels, 4).float()[:, None, :, None].repeat_interleave(2, 2)

    print(set_learning_rule(model, SoftAlignment(cosine=0.5, seed=0)), "\n")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(200):
        batch = torch.randint(0, 512, (64,))
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    accuracy = (model(images).argmax(1) == labels).float().mean()
    print(f"training accuracy {accuracy:.3f}; alignment {alignment(model)}\n")
    print(audit_weight_transport(model, images[:32], lambda output: F.cross_entropy(output, labels[:32])))


if __name__ == "__main__":
    main()
