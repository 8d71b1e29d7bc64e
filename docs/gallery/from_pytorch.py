# %% [markdown]
# A small residual network, trained for a few steps so that its statistics are its own, exported while it is still in
# training mode, and verified against the module itself.

# %%
import torch

import bnfold


class Block(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), Block(8), Block(8))
optimizer = torch.optim.SGD(network.parameters(), 0.01)
for _ in range(5):
    network(torch.randn(16, 1, 12, 12)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()

# %% [markdown]
# `export` puts it into evaluation mode for as long as it takes, and says what it found.

# %%
exported = bnfold.export(network, (torch.randn(2, 1, 12, 12),))
for finding in exported.findings:
    print(finding.code, finding.text)
print(exported.report)
assert network.training
assert exported.report.verdict == "equivalent"

# %%
remaining = [node.op_type for node in exported.model.graph.node]
print(remaining)
assert "BatchNormalization" not in remaining
bnfold.assert_equivalent(network, exported.model)
