"""A trial: four frames of `bouncing` as one tall image, by overlapping fronts, with attention in time and space.

    python benchmarks/local3d.py FOLDER MINUTES a|c        # a: in all layers, c: in every second
"""
import os
import sys,time
import torch, numpy as np
import image_transformer as it
from dataclasses import replace
from image_transformer.geometry.order import FrameWavefront
from image_transformer.geometry.patterns import Local3D, Nothing
from image_transformer.config.data import DataConfig

os.makedirs("/tmp/stack4", exist_ok=True)
for split in ("train", "validation", "test"):
    data = it.load_clips("bouncing", split)
    clips = data.images.reshape(-1, 20, 1, 16, 16)
    np.save(f"/tmp/stack4/{split}.npy", clips.reshape(-1, 4, 1, 16, 16).transpose(0, 1, 3, 4, 2).reshape(-1, 64, 16, 1))
name,minutes,kind=sys.argv[1],float(sys.argv[2]),sys.argv[3]
cfg=it.recipe("bouncing")
att={"a":(Local3D(16,2,(4,4),(4,4)),),"b":(Local3D(16,2,(8,8),(4,4)),),"c":(Nothing(),Local3D(16,2,(4,4),(4,4))),}[kind]
cfg=replace(cfg,recipe="l3d",model=replace(cfg.model,shape=(1,64,16),order=FrameWavefront(16),attention=att,conditions=()),
  data=DataConfig("/tmp/stack4"),train=replace(cfg.train,images=1_000_000,batch=8,clock="cpu",minutes=minutes,validate_every=2500,validation_images=200,warmup=500))
t=time.process_time()
it.train(cfg,name,show_progress=False)
m=it.load(name)
d=it.load_data("/tmp/stack4","test")
x=torch.from_numpy(np.ascontiguousarray(d.images[:400]))
with torch.inference_mode():
    b=-torch.cat([m.log_prob(x[i:i+50]) for i in range(0,400,50)]).reshape(400,4,256).sum(-1)/np.log(2)
b=b.double()
print(kind,"cpu",time.process_time()-t,"bits by place in window",b.mean(0).tolist(),"se",(b.std(0)/20).tolist())
import json
print("params",m.num_params if hasattr(m,"num_params") else sum(p.numel() for p in m.parameters()), "fronts",len(np.unique(m.layout.positions.front)))
# first windows only: frame 2 (place 1) of true starts
f=b.reshape(80,5,4)
print("window 0:",f[:,0].mean(0).tolist())
