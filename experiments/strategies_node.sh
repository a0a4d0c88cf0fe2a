# shellcheck shell=bash
# Strategies of neural ODEs: "model strategy" -> what asks NeuralODE/run_sweep.py for it. A strategy that is added here
# can be an OPT of sweep_node.sh and one of OPTS of run_node_optimizer_comparison.sh. Source this file.

declare -A NODE_FLAGS=(
    [node adam]="--optimizer Adam --physics-mode none"
    [node lbfgs]="--optimizer LBFGS --physics-mode none"
    [node sphere_adam]="--optimizer Adam --physics-mode sphere"
    [pinode adam]="--optimizer Adam --physics-mode pinn"
    [pinode lbfgs]="--optimizer LBFGS --physics-mode pinn"
    [pinode alm]="--optimizer LBFGS --physics-mode pinn_alm"
    [pinode alm_data]="--optimizer LBFGS --physics-mode pinn_alm --alm-target data"
    [pinode nncg]="--optimizer Adam_LBFGS_NNCG --physics-mode pinn"
    [pinode cl]="--optimizer LBFGS --physics-mode pinn --cl-warmup"
    [pinode region_lbfgs]="--optimizer LBFGS --physics-mode pinn_region"
)

# node_strategies MODEL: those of one model.
node_strategies() {
    local key
    for key in "${!NODE_FLAGS[@]}"; do
        [[ $key != "$1 "* ]] || echo "${key#* }"
    done | sort | xargs
}
