import sys

import torch
from bench import milliseconds, peak_mib, standard_dual_grid
from pack.o_voxel.dual_grid import dual_grid_to_mesh
from pack.o_voxel.mesh import band as B
from pack.o_voxel.mesh import block_field as F
from pack.o_voxel.mesh import contour as C
from pack.o_voxel.mesh import pull_back as P
from pack.o_voxel.mesh import remesh as R
from pack.o_voxel.mesh.remesh import remesh
from pack.o_voxel.mesh.shell import outer_shell
from pack.o_voxel.ops.closest_point import build_index
from pack.o_voxel.values import Mesh


def manifold(m):
    e=m.faces[:,[0,1,1,2,2,0]].reshape(-1,2).long(); d=(e[:,0]<<32)|e[:,1]
    u=d.unique(); rev=((u&0xffffffff)<<32)|(u>>32)
    return len(u)==len(d) and torch.equal(rev.sort().values,u)
def med(f,n=5): t=milliseconds(f,n); return f'{t[len(t)//2]:.2f}'
for r in [int(a) for a in sys.argv[1:]]:
    mesh=dual_grid_to_mesh(standard_dual_grid(r)); print(r,len(mesh.faces))
    for name,f in dict(remesh=lambda:remesh(mesh,r),remesh0=lambda:remesh(mesh,r,project=0.),shell=lambda:outer_shell(mesh,r),gaps=lambda:outer_shell(mesh,r,close_gaps=6.)).items():
        a=f();b=f(); same=torch.equal(a.vertices,b.vertices) and torch.equal(a.faces,b.faces); n=len(a.faces); ok=manifold(a)
        del a,b
        print(name,n,'same',same,'manifold',ok,'ms',med(f),'MiB',round(peak_mib(f)),flush=True)
    for level in (1.0,.55):
        grid=R.fit_grid(mesh,r,level); print('fit',med(lambda:R.fit_grid(mesh,r,level)))
        t=Mesh(grid.to_grid(mesh.vertices),mesh.faces); idx=build_index(t); print('index',med(lambda:build_index(t)))
        shape=tuple(n//4 for n in grid.shape)
        fld=B.sample_band(idx,shape,level); print('band',med(lambda:B.sample_band(idx,shape,level)),len(fld.coords)*64)
        cells=C._find_cells(fld); print('cells',med(lambda:C._find_cells(fld)))
        q,at,inner=C._quads(fld,cells); print('quads',med(lambda:C._quads(fld,cells)),len(q))
        v=C._means(q,at,cells.count); print('means',med(lambda:C._means(q,at,cells.count)))
        tw=C._twice(fld,cells,q,inner); print('twice',med(lambda:C._twice(fld,cells,q,inner)),int(tw.sum()))
        print('fans',med(lambda:C._fans(q,at,inner,tw,cells.count)),'halves',med(lambda:C._halves(v,q)))
        sh=Mesh(*C.contour(fld)); print('contour',med(lambda:C.contour(fld)))
        print('pull',med(lambda:P.pull_back(sh,t,idx,.9,level+.4)))
        mv=torch.zeros_like(sh.vertices); print('turned0',med(lambda:P._unturned(sh,mv)))
        print('flood',med(lambda:F.flood_outside(fld,'auto')));rch=F.flood_outside(fld,'auto'); print('fill',med(lambda:F.fill_unreached(fld,rch)))
    del fld,cells,q,at,inner,v,tw,sh,mv,rch,t,idx
